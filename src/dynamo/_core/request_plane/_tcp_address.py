"""Where a process of the TCP plane is reached, and who may reach it.

An address is `tcp://HOST:PORT/TARGET?local=NAME`: `TARGET` names the handler within the process, and
`NAME` an abstract Unix socket of the same process. `HOST:PORT` or the name may be missing. Addresses
come from discovery, where anybody may have written them, so nothing about one is taken for granted.
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import os
import re
import socket
import struct
from dataclasses import dataclass

from dynamo._core.errors import CannotConnect, ConfigError
from dynamo._core.loopback import is_loopback
from dynamo._core.request_plane.base import Address

PEERS_CACHED_MAX = 4096

_ADDRESS = re.compile(
    r"tcp://(?:(?P<host>[0-9A-Za-z_.-]{1,255}|\[[0-9A-Za-z:.%_-]{2,64}\]):(?P<port>[0-9]{1,5}))?"
    r"/(?P<target>[0-9a-f]{1,16})(?:\?local=(?P<local>[0-9A-Za-z_-]{1,100}))?"
)


@dataclass(frozen=True, slots=True)
class Peer:
    """A process that can be called: at a host and port, by a local name, or both."""

    host: str
    port: int
    local_name: str

    def __str__(self) -> str:
        if not self.host:
            return self.local_name
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@functools.lru_cache(maxsize=PEERS_CACHED_MAX)
def parse_address(address: Address) -> tuple[Peer, str]:
    """Return the process and the target within it. Cached: it is asked for with every request."""
    match = _ADDRESS.fullmatch(address)
    if match is None or not (match["host"] or match["local"]) or int(match["port"] or 0) > 65535:
        raise CannotConnect(
            f"{address[:200]!r} is not an address of the request plane tcp:; "
            "do both sides have the same DYN_REQUEST_PLANE?"
        )
    peer = Peer((match["host"] or "").strip("[]"), int(match["port"] or 0), match["local"] or "")
    return peer, match["target"]


def check_host(host: str, insecure: bool) -> None:
    try:
        unspecified = host != "localhost" and ipaddress.ip_address(host).is_unspecified
    except ValueError as error:
        raise ConfigError(f"DYN_REQUEST_PLANE: {host!r} is not an IP address to listen at") from error
    if unspecified:
        raise ConfigError(f"DYN_REQUEST_PLANE: {host} says not how others reach this host; name one of its addresses")
    if not is_loopback(host) and not insecure:
        raise ConfigError(
            f"DYN_REQUEST_PLANE: other hosts could connect to {host}, and there are no credentials; "
            "listen at 127.0.0.1, or add ?insecure=1 on a network you trust"
        )


def same_user(transport: asyncio.BaseTransport) -> bool:
    """True unless the peer is on a Unix socket and belongs to another user."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family != socket.AF_UNIX:
        return True
    with socket.socket(fileno=os.dup(sock.fileno())) as peer:
        credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    uid = struct.unpack("3i", credentials)[1]
    return uid in (os.getuid(), 0)

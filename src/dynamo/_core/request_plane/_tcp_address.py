"""Where a process of the TCP plane is reached, and who may reach it.

An address is `tcp://HOST:PORT/TARGET?local=NAME&v=1`: `TARGET` names the handler within the process, `NAME`
an abstract Unix socket of the same process, and `v` the major version of the protocol that it speaks. `HOST:PORT`
or the name may be missing, an address without `v` is of version 1, and what else is there is of newer releases.
Addresses come from discovery, where anybody may have written them, so nothing about one is taken for granted.
"""

from __future__ import annotations

import functools
import ipaddress
import logging
import os
import re
import socket
import struct
from dataclasses import dataclass

from dynamo._core import wire
from dynamo._core.credentials import TLS_CA, TLS_CERT, TLS_KEY, TOKEN, Credentials
from dynamo._core.errors import CannotConnect, ConfigError, IncompatibleVersion
from dynamo._core.limits import PEERS_CACHED_MAX
from dynamo._core.loopback import is_loopback
from dynamo._core.request_plane._handshake import incompatible
from dynamo._core.request_plane.base import Address

logger = logging.getLogger(__name__)

_ADDRESS = re.compile(
    r"tcp://(?:(?P<host>[0-9A-Za-z_.-]{1,255}|\[[0-9A-Za-z:.%_-]{2,64}\]):(?P<port>[0-9]{1,5}))?"
    r"/(?P<target>[0-9a-f]{1,16})(?:\?(?P<options>[0-9A-Za-z_=&.-]{1,500}))?"
)
_LOCAL_NAME = re.compile(r"[0-9A-Za-z_-]{1,100}")
_VERSION = re.compile(r"[0-9]{1,4}")


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
    """Return the process and the target within it. Cached: it is asked for with every request.

    Raises `CannotConnect` for what is no address, and `IncompatibleVersion` for one of another major version.
    """
    match = _ADDRESS.fullmatch(address)
    options = _options(match["options"] or "") if match is not None else {}
    local_name, version = options.get("local", ""), options.get("v", "1")
    if (
        match is None
        or not (match["host"] or local_name)
        or int(match["port"] or 0) > 65535
        or (local_name and not _LOCAL_NAME.fullmatch(local_name))
        or not _VERSION.fullmatch(version)
    ):
        raise CannotConnect(
            f"{address[:200]!r} is not an address of the request plane tcp:; "
            "do both sides have the same DYN_REQUEST_PLANE?"
        )
    peer = Peer((match["host"] or "").strip("[]"), int(match["port"] or 0), local_name)
    if int(version) != wire.PROTOCOL_MAJOR:
        raise _not_routed_to(peer, int(version))
    return peer, match["target"]


def format_address(host_and_port: str, target: str, local_name: str) -> Address:
    """Return the address of a target of this process."""
    local = f"local={local_name}&" if local_name else ""
    return f"tcp://{host_and_port}/{target}?{local}v={wire.PROTOCOL_MAJOR}"


def _options(text: str) -> dict[str, str]:
    pairs = (pair.partition("=") for pair in text.split("&"))
    return {name: value for name, _, value in pairs}


def _not_routed_to(peer: Peer, major: int) -> IncompatibleVersion:
    """Return a new error: one that is raised again and again would keep every request that it has met."""
    error = incompatible(major)
    refusal = IncompatibleVersion(f"cannot call {peer}: {error.message}", **error.details, address=str(peer))
    _log_once(refusal.message)
    return refusal


@functools.lru_cache(maxsize=PEERS_CACHED_MAX)
def _log_once(message: str) -> None:
    """Log what is found out again with every request."""
    logger.warning("%s", message)


def check_host(host: str, insecure: bool, credentials: Credentials, setting: str) -> None:
    """Raise `ConfigError`, about `setting`, unless it makes sense to listen there and callers prove who they are."""
    try:
        unspecified = host != "localhost" and ipaddress.ip_address(host).is_unspecified
    except ValueError as error:
        raise ConfigError(f"{setting}: {host!r} is not an IP address to listen at") from error
    if unspecified:
        raise ConfigError(f"{setting}: {host} says not how others reach this host; name one of its addresses")
    if not is_loopback(host) and not insecure and not credentials.ask_callers:
        raise ConfigError(
            f"{setting}: other hosts could connect to {host}, and there are no credentials; set {TOKEN}, or "
            f"{TLS_CERT}, {TLS_KEY} and {TLS_CA}, or listen at 127.0.0.1, or add ?insecure=1 on a network you trust"
        )


def same_user(sock: socket.socket) -> bool:
    """True unless the peer is on a Unix socket and belongs to another user."""
    if sock.family != socket.AF_UNIX:
        return True
    with socket.socket(fileno=os.dup(sock.fileno())) as peer:
        credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    uid = struct.unpack("3i", credentials)[1]
    return uid in (os.getuid(), 0)

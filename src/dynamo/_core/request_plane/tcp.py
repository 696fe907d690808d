"""Requests over sockets: a Unix socket within a host, TCP between hosts.

One connection per pair of processes carries all of their streams. An address names a host and port and
an abstract Unix socket of the same process. Abstract sockets vanish with their process, and a name is
random, so a caller simply tries it: on another host nothing answers, and TCP is used. A Unix socket
also knows who connects, and only the same user may. So where it exists and no other host is meant to
connect, there is no TCP port at all, and the address has no `HOST:PORT`.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from urllib.parse import parse_qs, urlsplit

from dynamo._core.context import Context
from dynamo._core.errors import CannotConnect, ConfigError, DynamoError
from dynamo._core.request_plane._connection import close_all
from dynamo._core.request_plane._stream import ItemStream
from dynamo._core.request_plane._tcp_address import Peer, check_host, parse_address
from dynamo._core.request_plane._tcp_client import ClientConnection
from dynamo._core.request_plane._tcp_server import TcpListener, TcpServer
from dynamo._core.request_plane.base import Address, Handler, check_request

CONNECT_TIMEOUT_S = 2.0


class TcpPlane:
    """A request plane over sockets.

    `host` and `port` are where handlers listen (port 0: any free one). A host that other machines can
    reach needs `insecure=True` until the planes have credentials. `local=False` does without the Unix
    socket, which exists on Linux only.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0, *, insecure: bool = False, local: bool = True) -> None:
        check_host(host, insecure)
        self._host = host
        self._port = port
        self._local = local and sys.platform == "linux"
        # The mutable state: what listens here, and the connections that were made and are being made.
        self._server: TcpServer | None = None
        self._starting = asyncio.Lock()
        self._connections: dict[Peer, ClientConnection] = {}
        self._connecting: dict[Peer, asyncio.Task[ClientConnection]] = {}
        self._closed = False

    @classmethod
    def from_url(cls, url: str) -> TcpPlane:
        """Read `tcp:`, `tcp://HOST`, `tcp://HOST:PORT`, with `?insecure=1` if other hosts may connect."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "127.0.0.1", parts.port or 0
        except ValueError as error:
            raise ConfigError(f"DYN_REQUEST_PLANE={url!r}: {error}") from error
        options = parse_qs(parts.query)
        if unknown := set(options) - {"insecure", "local"}:
            raise ConfigError(
                f"DYN_REQUEST_PLANE={url!r}: unknown option {min(unknown)!r}; there are insecure and local"
            )
        return cls(host, port, insecure=options.get("insecure") == ["1"], local=options.get("local", ["1"]) == ["1"])

    async def listen(self, handler: Handler) -> TcpListener:
        async with self._starting:
            if self._closed:
                raise DynamoError("this request plane is closed; open a new one")
            if self._server is None:
                self._server = await TcpServer.start(self._host, self._port, local=self._local)
            return self._server.add(handler)

    async def call(self, to: Address, request: bytes, context: Context) -> ItemStream:
        check_request(request, context.request_id, context.metadata)
        peer, target = parse_address(to)
        connection = self._connections.get(peer)
        if connection is None:
            connection = await self._connect(peer)
        return connection.open(target, request, context)

    async def close(self) -> None:
        self._closed = True
        for connecting in self._connecting.values():
            connecting.cancel()
        self._connecting.clear()
        await close_all(self._connections.values())
        async with self._starting:
            if self._server is not None:
                await self._server.close()

    async def _connect(self, peer: Peer) -> ClientConnection:
        """Return the connection to `peer`; callers that come while it is being made share it."""
        if self._closed:
            raise CannotConnect(f"cannot connect to {peer}: this request plane is closed", address=str(peer))
        connecting = self._connecting.get(peer)
        if connecting is None:
            connecting = asyncio.get_running_loop().create_task(self._open_connection(peer))
            connecting.add_done_callback(_note_failure)
            self._connecting[peer] = connecting
        await asyncio.wait([connecting])  # and not the task itself: it goes on for others if this caller leaves
        if connecting.cancelled():
            raise CannotConnect(f"cannot connect to {peer}: the request plane was closed", address=str(peer))
        try:
            return connecting.result()
        except (OSError, ValueError) as error:  # ValueError: a name that cannot be looked up
            reason = str(error) or f"no answer within {CONNECT_TIMEOUT_S:.0f} s"
            raise CannotConnect(f"cannot connect to {peer}: {reason}", address=str(peer)) from error

    async def _open_connection(self, peer: Peer) -> ClientConnection:
        try:
            connection = await self._dial(peer)
        finally:
            self._connecting.pop(peer, None)
        if not connection.lost:
            self._connections[peer] = connection
        return connection

    async def _dial(self, peer: Peer) -> ClientConnection:
        def factory() -> ClientConnection:
            return ClientConnection(str(peer), lambda: self._forget(peer))

        loop = asyncio.get_running_loop()
        if peer.local_name and (self._local or not peer.host):
            # An abstract socket connects at once or not at all. Not at all: the process is gone, or on
            # another host, or in another network namespace of this one.
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            try:
                sock.connect("\0" + peer.local_name)
            except OSError:
                sock.close()
                if not peer.host:
                    raise
            else:
                return (await loop.create_unix_connection(factory, sock=sock))[1]
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            return (await loop.create_connection(factory, peer.host, peer.port))[1]

    def _forget(self, peer: Peer) -> None:
        self._connections.pop(peer, None)


def _note_failure(connecting: asyncio.Task[ClientConnection]) -> None:
    """Take the error even if every caller who waited for it has left."""
    if not connecting.cancelled():
        connecting.exception()

"""Requests over sockets: a Unix socket within a host, TCP between hosts.

One connection per pair of processes carries all of their streams. An address names a host and port and
an abstract Unix socket of the same process. Abstract sockets vanish with their process, and a name is
random, so a caller simply tries it: on another host nothing answers, and TCP is used. A Unix socket
also knows who connects, and only the same user may. So where it exists and no other host is meant to
connect, there is no TCP port at all, and the address has no `HOST:PORT`.

Whoever connects proves that he knows the token of the cluster, if there is one, and so does whom he connects to.
TLS is for TCP: what goes through a Unix socket never leaves the host.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import sys
from collections.abc import Callable, Mapping
from urllib.parse import parse_qsl, urlsplit

from dynamo._core.context import Context
from dynamo._core.credentials import Credentials
from dynamo._core.errors import CannotConnect, ConfigError
from dynamo._core.request_plane._connection import close_all
from dynamo._core.request_plane._stats import PlaneStats
from dynamo._core.request_plane._stream import ItemStream, cancelled, deadline_exceeded
from dynamo._core.request_plane._tcp_address import Peer, check_host, parse_address, same_user
from dynamo._core.request_plane._tcp_client import ClientConnection, tls_failed
from dynamo._core.request_plane._tcp_server import TcpListener, TcpServer
from dynamo._core.request_plane.base import Address, Handler, check_request, closed

#: So long may it take to reach a peer, the handshake of TLS included; ours has its own time.
CONNECT_TIMEOUT_S = 2.0

_LOCAL_ONLY = (
    "; it listens on its own host only, at this Unix socket: it has ended, or it is on another machine (or in another "
    "container), where DYN_REQUEST_PLANE=tcp://ADDRESS must say which of its addresses others use"
)


class TcpPlane:
    """A request plane over sockets.

    `host` and `port` are where handlers listen (port 0: any free one). A host that other machines can
    reach needs `credentials` by which callers prove who they are, or `insecure=True`. `local=False` does without
    the Unix socket, which exists on Linux only. Raises `ConfigError`, about `setting`, for what makes no sense.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        insecure: bool = False,
        local: bool = True,
        credentials: Credentials | None = None,
        setting: str = "DYN_REQUEST_PLANE",
    ) -> None:
        credentials = credentials or Credentials()
        check_host(host, insecure, credentials, setting)
        self._setting = setting
        self._host = host
        self._port = port
        self._local = local and sys.platform == "linux"
        self._credentials = credentials
        self._tls: ssl.SSLContext | None = None if credentials.tls is None else credentials.tls.client_context()
        self._stats = PlaneStats()
        # The mutable state: what listens here, and the connections that were made and are being made.
        self._server: TcpServer | None = None
        self._starting = asyncio.Lock()
        self._connections: dict[Peer, ClientConnection] = {}
        self._connecting: dict[Peer, asyncio.Task[ClientConnection]] = {}
        self._closed = False

    @classmethod
    def from_url(
        cls, url: str, environ: Mapping[str, str] = os.environ, *, setting: str = "DYN_REQUEST_PLANE"
    ) -> TcpPlane:
        """Read `tcp:`, `tcp://HOST`, `tcp://HOST:PORT`, with `?insecure=1` if any other host may connect.

        The credentials are in the environment.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "127.0.0.1", parts.port or 0
        except ValueError as error:
            raise ConfigError(f"{setting}={url!r}: {error}") from error
        options = {"insecure": "0", "local": "1"}
        for name, value in parse_qsl(parts.query, keep_blank_values=True):
            if name not in options or value not in ("0", "1"):
                raise ConfigError(
                    f"{setting}={url!r}: unknown option {name}={value}; there are insecure and local, of 0 or 1"
                )
            options[name] = value
        return cls(
            host,
            port,
            insecure=options["insecure"] == "1",
            local=options["local"] == "1",
            credentials=Credentials.from_environ(environ),
            setting=setting,
        )

    @property
    def stats(self) -> PlaneStats:
        """What the plane has counted, and its pool of connections as it is now."""
        pool = self._connections.values()
        self._stats.num_pool_active = sum(connection.has_streams() for connection in pool)
        self._stats.num_pool_idle = len(pool) - self._stats.num_pool_active
        return self._stats

    async def listen(self, handler: Handler) -> TcpListener:
        async with self._starting:
            if self._closed:
                raise closed()
            if self._server is None:
                self._server = await TcpServer.start(
                    self._host,
                    self._port,
                    local=self._local,
                    credentials=self._credentials,
                    stats=self._stats,
                    setting=self._setting,
                )
            return self._server.add(handler)

    async def call(self, to: Address, request: bytes, context: Context) -> ItemStream:
        check_request(request, context.request_id, context.metadata)
        peer, target = parse_address(to)
        connection = self._connections.get(peer)
        if connection is None:
            connection = await self._connect(peer, context)
        return connection.open(target, request, context)

    async def close(self) -> None:
        self._closed = True
        connecting = list(self._connecting.values())
        self._connecting.clear()
        for task in connecting:
            task.cancel()
        if connecting:
            await asyncio.wait(connecting)
        await close_all(self._connections.values())
        async with self._starting:
            if self._server is not None:
                await self._server.close()

    async def _connect(self, peer: Peer, context: Context) -> ClientConnection:
        """Return the connection to `peer`; callers that come while it is being made share it."""
        if self._closed:
            raise closed()
        connecting = self._connecting.get(peer)
        if connecting is None:
            connecting = asyncio.get_running_loop().create_task(self._open_connection(peer))
            connecting.add_done_callback(_note_failure)
            self._connecting[peer] = connecting
        await _wait_for(connecting, context)
        if connecting.cancelled():
            raise closed()
        try:
            return connecting.result()
        except CannotConnect as error:  # a new one for each caller: a traceback belongs to one of them
            raise type(error)(error.message, **error.details) from error
        except ssl.SSLError as error:
            raise tls_failed(str(peer), error) from error
        except (OSError, ValueError) as error:  # ValueError: a name that cannot be looked up
            reason = str(error) or f"no answer within {CONNECT_TIMEOUT_S} s"
            if not peer.host:
                reason += _LOCAL_ONLY
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
        """Return a connection whose handshake is done."""
        made: list[ClientConnection] = []

        def gone() -> None:
            if self._connections.get(peer) is made[0]:
                del self._connections[peer]

        def factory() -> ClientConnection:
            made.append(ClientConnection(str(peer), self._credentials.token, self._stats, gone))
            return made[0]

        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._reach(peer, factory)
            await made[0].ready  # or not: the connection gives up by itself
        except BaseException:
            for connection in made:
                connection.abort(CannotConnect("the caller waits no more"))
            raise
        return made[0]

    async def _reach(self, peer: Peer, factory: Callable[[], ClientConnection]) -> None:
        loop = asyncio.get_running_loop()
        if peer.local_name and (self._local or not peer.host):
            # An abstract socket connects at once or not at all. Not at all: the process is gone, or on
            # another host, or in another network namespace of this one.
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            try:
                sock.connect("\0" + peer.local_name)
                if not same_user(sock):
                    raise PermissionError("another user of this host listens there")
            except OSError:
                sock.close()
                if not peer.host:
                    raise
            else:
                await loop.create_unix_connection(factory, sock=sock)
                return
        await loop.create_connection(factory, peer.host, peer.port, ssl=self._tls)


async def _wait_for(connecting: asyncio.Task[ClientConnection], context: Context) -> None:
    """Wait until it is done. Raises `DeadlineExceeded` or `Cancelled` if this caller is before, and it goes on."""
    killed = asyncio.get_running_loop().create_future()

    def note(is_killed: bool) -> None:
        if is_killed and not killed.done():
            killed.set_result(None)

    context.watch(note)
    try:
        await asyncio.wait([connecting, killed], timeout=context.remaining_s(), return_when=asyncio.FIRST_COMPLETED)
    finally:
        context.unwatch(note)
    if not connecting.done():
        raise cancelled(context) if context.is_killed() else deadline_exceeded(context)


def _note_failure(connecting: asyncio.Task[ClientConnection]) -> None:
    """Take the error even if every caller who waited for it has left."""
    if not connecting.cancelled():
        connecting.exception()

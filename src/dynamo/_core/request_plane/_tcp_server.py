"""The serving end of the TCP plane: the sockets of a process, and the handlers behind them."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from typing import cast

from dynamo._core import wire
from dynamo._core.context import Context
from dynamo._core.credentials import TLS_CA, TLS_CERT, TLS_KEY, Credentials, TlsFiles
from dynamo._core.errors import (
    CannotConnect,
    ConfigError,
    DynamoError,
    InvalidArgument,
    Overloaded,
    ProtocolError,
    WorkerUnavailable,
    to_wire,
)
from dynamo._core.limits import CONNECTIONS_MAX, ITEM_OVERHEAD_BYTES, STREAMS_MAX
from dynamo._core.loopback import is_loopback
from dynamo._core.request_plane import _stats
from dynamo._core.request_plane._connection import Connection, close_all
from dynamo._core.request_plane._handshake import Handshake
from dynamo._core.request_plane._responder import Responder, Serving, end_all
from dynamo._core.request_plane._stats import PlaneStats
from dynamo._core.request_plane._tcp_address import format_address, same_user
from dynamo._core.request_plane._tls_door import TellingContext, TlsDoor
from dynamo._core.request_plane.base import Address, Handler, check_request

logger = logging.getLogger(__name__)

#: Connections that wait while the event loop is busy with others.
BACKLOG = 1024


class TcpListener(Serving):
    """A handler that takes requests from sockets."""

    def __init__(self, server: TcpServer, target: str, handler: Handler) -> None:
        super().__init__(handler)
        self._server = server
        self._target = target

    @property
    def address(self) -> Address:
        return self._server.address_of(self._target)

    async def close(self, drain_s: float = 0.0) -> None:
        self._server.remove(self._target)
        await end_all(self.running, drain_s)


class TcpServer:
    """The sockets of this process, and the handlers behind them."""

    def __init__(self, credentials: Credentials, stats: PlaneStats) -> None:
        self.credentials = credentials
        self.stats = stats
        self.listeners: dict[str, TcpListener] = {}
        # A dict for its order, which is that of every run.
        self.connections: dict[ServerConnection, None] = {}
        self._sockets: list[asyncio.Server] = []
        self._door: TlsDoor | None = None
        self._host_and_port = ""
        self._local_name = ""
        self._targets = 0
        self.is_closed = False

    @classmethod
    async def start(
        cls, host: str, port: int, *, local: bool, credentials: Credentials, stats: PlaneStats, setting: str
    ) -> TcpServer:
        server = cls(credentials, stats)
        try:
            if not local or port or not is_loopback(host):
                await server._listen_at(host, port, setting)
            if local:
                await server._listen_locally()
        except BaseException:
            await server.close()
            raise
        return server

    def connection(self, address: object = None) -> ServerConnection:
        """Return the serving end for somebody who connects; `address` is his, if it is known by now."""
        return ServerConnection(self, address)

    async def _listen_at(self, host: str, port: int, setting: str) -> None:
        tls = self.credentials.tls
        if tls is None and not is_loopback(host):
            logger.warning(
                "requests and answers cross the network in the clear to and from %s; set %s, %s and %s",
                host, TLS_CERT, TLS_KEY, TLS_CA,
            )  # fmt: skip
        try:
            bound_host, bound_port = (
                await self._listen_plainly(host, port) if tls is None else self._listen_with_tls(host, port, tls)
            )
        except OSError as error:
            raise ConfigError(
                f"cannot listen for requests at {host}:{port} ({error.strerror}); set {setting}=tcp://HOST:PORT"
            ) from error
        self._host_and_port = f"[{bound_host}]:{bound_port}" if ":" in bound_host else f"{bound_host}:{bound_port}"

    async def _listen_plainly(self, host: str, port: int) -> tuple[str, int]:
        server = await asyncio.get_running_loop().create_server(
            self.connection, host, port, backlog=BACKLOG, start_serving=False
        )
        await self._accept(server)
        bound_host, bound_port = server.sockets[0].getsockname()[:2]
        return bound_host, bound_port

    def _listen_with_tls(self, host: str, port: int, tls: TlsFiles) -> tuple[str, int]:
        context = tls.server_context(TellingContext)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
        listening.setblocking(False)
        self._door = TlsDoor(listening, context, self.connection)
        bound_host, bound_port = listening.getsockname()[:2]
        return bound_host, bound_port

    async def _listen_locally(self) -> None:
        name = f"dynamo-{secrets.token_hex(16)}"
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            sock.bind("\0" + name)
            loop = asyncio.get_running_loop()
            server = await loop.create_unix_server(self.connection, sock=sock, backlog=BACKLOG, start_serving=False)
        except BaseException:
            sock.close()
            raise
        await self._accept(server)
        self._local_name = name

    async def _accept(self, server: asyncio.Server) -> None:
        """Begin to accept, as a step of its own: whoever is cancelled in it has what is to be closed.

        A loop that still watches a socket that was closed takes the next one of that number for it, and never looks.
        """
        self._sockets.append(server)
        await server.start_serving()

    def add(self, handler: Handler) -> TcpListener:
        self._targets += 1
        target = f"{self._targets:x}"
        listener = self.listeners[target] = TcpListener(self, target, handler)
        return listener

    def remove(self, target: str) -> None:
        self.listeners.pop(target, None)

    def address_of(self, target: str) -> Address:
        return format_address(self._host_and_port, target, self._local_name)

    async def close(self) -> None:
        self.is_closed = True
        for server in self._sockets:
            server.close()
        if self._door is not None:
            await self._door.close()
        await asyncio.gather(*(listener.close() for listener in list(self.listeners.values())))
        await close_all(self.connections)


class ServerConnection(Connection):
    """The serving end: starts a responder for each request."""

    def __init__(self, server: TcpServer, address: object) -> None:
        super().__init__(Handshake("server", server.credentials.token), server.stats)
        self._server = server
        self._responders: dict[int, _TcpResponder] = {}
        # The Items messages of this turn's frame, by stream: later items of the turn join them.
        self.open_items: dict[int, wire.Items] = {}
        self._origin = _origin(address)
        # Now, and not when the connection is made: that is after the handshake of TLS, which may never end.
        self.start_timer()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._origin = _origin(transport.get_extra_info("peername"))
        sock = transport.get_extra_info("socket")
        if sock is not None and not same_user(sock):
            self._turn_away(transport, _stats.OTHER_USER, "another user of this host wants to connect")
        elif len(self._server.connections) >= CONNECTIONS_MAX:
            what = f"{CONNECTIONS_MAX} processes are connected already"
            self._turn_away(transport, _stats.TOO_MANY_CONNECTIONS, what)
        else:
            if self._server.is_closed:  # meanwhile
                self.abort(CannotConnect("this process takes no more requests"))
            self._server.connections[self] = None
            super().connection_made(transport)

    def _turn_away(self, transport: asyncio.BaseTransport, reason: str, message: str) -> None:
        self.stats.fail_hello(reason, self.where(), message, self.loop.time())
        cast("asyncio.Transport", transport).abort()

    def where(self) -> str:
        return self._origin

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._server.connections.pop(self, None)

    def on_message(self, message: wire.Message) -> None:
        if type(message) is wire.Request:
            self._start(message)
        elif type(message) is wire.Credit:
            if (responder := self._responders.get(message.stream_id)) is not None:
                responder.add_credit(message.size_bytes)
        elif type(message) is wire.Cancel:
            if (responder := self._responders.get(message.stream_id)) is not None:
                if message.kill:
                    responder.abandon()
                else:
                    responder.context.stop_generating()
        elif type(message) is not wire.Heartbeat:
            raise ProtocolError(f"a client does not send {type(message).__name__}")

    def _start(self, request: wire.Request) -> None:
        if self.lost:  # by what was said in the same breath
            return
        stream_id = request.stream_id
        if stream_id in self._responders:
            raise ProtocolError(f"stream {stream_id} was opened twice")
        try:
            check_request(request.payload, request.request_id, request.metadata)
            deadline = None if request.timeout_s is None else self.loop.time() + request.timeout_s
            context = Context(request.request_id, request.metadata, deadline=deadline)
            if len(self._responders) >= STREAMS_MAX:
                raise Overloaded(f"{STREAMS_MAX} requests run on one connection")
            listener = self._server.listeners.get(request.target)
            if listener is None:
                raise WorkerUnavailable("the instance no longer serves this endpoint")
        except (InvalidArgument, Overloaded, WorkerUnavailable) as error:
            self.post_error(stream_id, 0, error)
            return
        responder = self._responders[stream_id] = _TcpResponder(self, stream_id, context, request.window_bytes)
        task = responder.start(listener, request.payload)
        running = listener.running
        running[task] = responder

        def done(task: asyncio.Task[None]) -> None:
            del running[task]
            del self._responders[stream_id]

        task.add_done_callback(done)

    def post_error(self, stream_id: int, count: int, error: BaseException) -> None:
        """Say that a stream ended after so many items with an error."""
        layers = to_wire(error)
        self.post(wire.Error(stream_id, count, layers), sum(layer.size_bytes for layer in layers))

    def on_flushed(self) -> None:
        self.open_items.clear()

    def on_resumed(self) -> None:
        for responder in self._responders.values():
            responder.wake()

    def on_lost(self, error: DynamoError) -> None:
        for responder in self._responders.values():
            responder.abandon()

    def has_streams(self) -> bool:
        # A handler that still cleans up is no reason for its caller to go on sending heartbeats.
        return any(not responder.over for responder in self._responders.values())


def _origin(address: object) -> str:
    """Say from where somebody connects."""
    return f"from {address[0]} port {address[1]}" if isinstance(address, tuple) else "from this host"


class _TcpResponder(Responder):
    __slots__ = ("_connection", "_stream_id")

    def __init__(self, connection: ServerConnection, stream_id: int, context: Context, window_bytes: int) -> None:
        super().__init__(context, window_bytes)
        self._connection = connection
        self._stream_id = stream_id

    def send_item(self, item: bytes) -> None:
        connection = self._connection
        size_bytes = len(item) + ITEM_OVERHEAD_BYTES
        current = connection.open_items.get(self._stream_id)
        if current is not None:
            current.items.append(item)
            connection.grow(size_bytes)
        else:
            items = connection.open_items[self._stream_id] = wire.Items(self._stream_id, self.count, [item])
            connection.post(items, size_bytes)

    def send_final(self) -> None:
        self._connection.post(wire.Final(self._stream_id, self.count))

    def send_error(self, error: BaseException) -> None:
        self._connection.post_error(self._stream_id, self.count, error)

    def blocked(self) -> bool:
        return self._connection.paused

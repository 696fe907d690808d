"""The serving end of the TCP plane: the sockets of a process, and the handlers behind them."""

from __future__ import annotations

import asyncio
import secrets
import socket
from typing import cast

from dynamo._core import wire
from dynamo._core.context import Context
from dynamo._core.errors import (
    ConfigError,
    DynamoError,
    InvalidArgument,
    Overloaded,
    ProtocolError,
    WorkerUnavailable,
    to_wire,
)
from dynamo._core.loopback import is_loopback
from dynamo._core.request_plane._connection import Connection, close_all
from dynamo._core.request_plane._responder import Responder, end_all
from dynamo._core.request_plane._stream import ITEM_OVERHEAD_BYTES
from dynamo._core.request_plane._tcp_address import same_user
from dynamo._core.request_plane.base import STREAMS_MAX, Address, Handler, check_request

#: Processes that may be connected at a time.
CONNECTIONS_MAX = 8192


class TcpListener:
    """A handler that takes requests from sockets."""

    def __init__(self, server: TcpServer, target: str, handler: Handler) -> None:
        self._server = server
        self._target = target
        self.handler = handler
        self.running: dict[asyncio.Task[None], Responder] = {}

    @property
    def address(self) -> Address:
        return self._server.address_of(self._target)

    async def close(self, drain_s: float = 0.0) -> None:
        self._server.remove(self._target)
        await end_all(self.running, drain_s)


class TcpServer:
    """The sockets of this process, and the handlers behind them."""

    def __init__(self) -> None:
        self.listeners: dict[str, TcpListener] = {}
        self.connections: set[_ServerConnection] = set()
        self._sockets: list[asyncio.Server] = []
        self._host_and_port = ""
        self._local_name = ""
        self._targets = 0

    @classmethod
    async def start(cls, host: str, port: int, *, local: bool) -> TcpServer:
        server = cls()
        try:
            if not local or port or not is_loopback(host):
                await server._listen_at(host, port)
            if local:
                await server._listen_locally()
        except BaseException:
            await server.close()
            raise
        return server

    async def _listen_at(self, host: str, port: int) -> None:
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(lambda: _ServerConnection(self), host, port, backlog=1024)
        except OSError as error:
            raise ConfigError(
                f"cannot listen for requests at {host}:{port} ({error.strerror}); set DYN_REQUEST_PLANE=tcp://HOST:PORT"
            ) from error
        self._sockets.append(server)
        bound_host, bound_port = server.sockets[0].getsockname()[:2]
        self._host_and_port = f"[{bound_host}]:{bound_port}" if ":" in bound_host else f"{bound_host}:{bound_port}"

    async def _listen_locally(self) -> None:
        name = f"dynamo-{secrets.token_hex(16)}"
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            sock.bind("\0" + name)
            loop = asyncio.get_running_loop()
            server = await loop.create_unix_server(lambda: _ServerConnection(self), sock=sock, backlog=1024)
        except BaseException:
            sock.close()
            raise
        self._sockets.append(server)
        self._local_name = name

    def add(self, handler: Handler) -> TcpListener:
        self._targets += 1
        target = f"{self._targets:x}"
        listener = self.listeners[target] = TcpListener(self, target, handler)
        return listener

    def remove(self, target: str) -> None:
        self.listeners.pop(target, None)

    def address_of(self, target: str) -> Address:
        return f"tcp://{self._host_and_port}/{target}" + (f"?local={self._local_name}" if self._local_name else "")

    async def close(self) -> None:
        for server in self._sockets:
            server.close()
        await asyncio.gather(*(listener.close() for listener in list(self.listeners.values())))
        await close_all(self.connections)


class _ServerConnection(Connection):
    """The serving end: starts a responder for each request."""

    def __init__(self, server: TcpServer) -> None:
        super().__init__()
        self._server = server
        self._responders: dict[int, _TcpResponder] = {}
        # The Items messages of this turn's frame, by stream: later items of the turn join them.
        self.open_items: dict[int, wire.Items] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not same_user(transport) or len(self._server.connections) >= CONNECTIONS_MAX:
            cast("asyncio.Transport", transport).abort()
            return
        self._server.connections.add(self)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._server.connections.discard(self)

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
            self.post(wire.Error(stream_id, 0, to_wire(error)))
            return
        responder = self._responders[stream_id] = _TcpResponder(self, stream_id, context, request.window_bytes)
        task = responder.start(listener.handler, request.payload)
        running = listener.running
        running[task] = responder

        def done(task: asyncio.Task[None]) -> None:
            del running[task]
            del self._responders[stream_id]

        task.add_done_callback(done)

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


class _TcpResponder(Responder):
    __slots__ = ("_connection", "_stream_id")

    def __init__(self, connection: _ServerConnection, stream_id: int, context: Context, window_bytes: int) -> None:
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
        self._connection.post(wire.Error(self._stream_id, self.count, to_wire(error)))

    def blocked(self) -> bool:
        return self._connection.paused

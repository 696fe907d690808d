"""Requests over sockets: a Unix socket within a host, TCP between hosts.

One connection per pair of processes carries all of their streams. An address is
`tcp://HOST:PORT/TARGET?local=NAME`: `TARGET` names the handler within the process, and `NAME` an
abstract Unix socket of the same process. Abstract sockets vanish with their process, and a name is
random, so a caller simply tries it: on another host nothing answers, and TCP is used. A Unix socket
also knows who connects, and only the same user may. So where it exists and no other host is meant to
connect, there is no TCP port at all, and the address has no `HOST:PORT`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ipaddress
import os
import secrets
import socket
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast
from urllib.parse import parse_qs, urlsplit

from dynamo._core import wire
from dynamo._core.context import Context
from dynamo._core.errors import (
    CannotConnect,
    ConfigError,
    Disconnected,
    DynamoError,
    EngineShutdown,
    InvalidArgument,
    Overloaded,
    ProtocolError,
    WorkerUnavailable,
    from_wire,
    to_wire,
)
from dynamo._core.request_plane._connection import Connection
from dynamo._core.request_plane._responder import Responder
from dynamo._core.request_plane._stream import ITEM_OVERHEAD_BYTES, ItemStream
from dynamo._core.request_plane.base import MESSAGE_BYTES_MAX, STREAM_WINDOW_BYTES, STREAMS_MAX, Address, Handler

CONNECT_TIMEOUT_S = 2.0
CLOSE_TIMEOUT_S = 5.0
REQUEST_OVERHEAD_BYTES = 128
PEERS_CACHED_MAX = 4096


class TcpPlane:
    """A request plane over sockets.

    `host` and `port` are where handlers listen (port 0: any free one). A host that other machines can
    reach needs `insecure=True` until the planes have credentials. `local=False` does without the Unix
    socket, which exists on Linux only.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0, *, insecure: bool = False, local: bool = True) -> None:
        _check_host(host, insecure)
        self._host = host
        self._port = port
        self._local = local and sys.platform == "linux"
        # The mutable state: what listens here, and the connections in both directions.
        self._server: _Server | None = None
        self._starting = asyncio.Lock()
        self._connections: dict[_Peer, asyncio.Task[_ClientConnection]] = {}

    @classmethod
    def from_url(cls, url: str) -> TcpPlane:
        """Read `tcp:`, `tcp://HOST`, `tcp://HOST:PORT`, with `?insecure=1` if other hosts may connect."""
        parts = urlsplit(url)
        options = parse_qs(parts.query)
        if unknown := set(options) - {"insecure", "local"}:
            raise ConfigError(
                f"DYN_REQUEST_PLANE={url!r}: unknown option {min(unknown)!r}; there are insecure and local"
            )
        try:
            host, port = parts.hostname or "127.0.0.1", parts.port or 0
        except ValueError as error:
            raise ConfigError(f"DYN_REQUEST_PLANE={url!r}: {error}") from error
        return cls(host, port, insecure=options.get("insecure") == ["1"], local=options.get("local", ["1"]) == ["1"])

    async def listen(self, handler: Handler) -> TcpListener:
        async with self._starting:
            if self._server is None:
                self._server = await _Server.start(self._host, self._port, local=self._local)
        return self._server.add(handler)

    async def call(self, to: Address, request: bytes, context: Context) -> ItemStream:
        if len(request) > MESSAGE_BYTES_MAX:
            raise InvalidArgument(f"a request of {len(request)} bytes exceeds the limit of {MESSAGE_BYTES_MAX}")
        peer, target = _parse(to)
        pending = self._connections.get(peer)
        if pending is not None and pending.done():
            connection = pending.result()
        else:
            connection = await self._connect(peer)
        return connection.open(target, request, context)

    async def close(self) -> None:
        for pending in list(self._connections.values()):
            pending.cancel()
            if pending.done() and not pending.cancelled() and pending.exception() is None:
                pending.result().close(Disconnected("the request plane was closed"))
        self._connections.clear()
        if self._server is not None:
            await self._server.close()

    async def _connect(self, peer: _Peer) -> _ClientConnection:
        """Return the connection to `peer`; callers that come while it is being made share it."""
        pending = self._connections.get(peer)
        if pending is None:
            pending = asyncio.get_running_loop().create_task(self._open_connection(peer))
            self._connections[peer] = pending
            pending.add_done_callback(lambda done: self._check_connected(peer, done))
        try:
            return await asyncio.shield(pending)
        except (OSError, TimeoutError) as error:
            reason = str(error) or f"no answer within {CONNECT_TIMEOUT_S:.0f} s"
            raise CannotConnect(f"cannot connect to {peer}: {reason}", address=str(peer)) from error

    async def _open_connection(self, peer: _Peer) -> _ClientConnection:
        task = asyncio.current_task()
        assert task is not None
        factory = lambda: _ClientConnection(str(peer), lambda: self._forget(peer, task))  # noqa: E731
        loop = asyncio.get_running_loop()
        if peer.local_name and (self._local or not peer.host_and_port):
            # An abstract socket connects at once or not at all. Not at all: the process is gone, or on
            # another host, or in another network namespace of this one.
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            try:
                sock.connect("\0" + peer.local_name)
            except OSError:
                sock.close()
                if not peer.host_and_port:
                    raise
            else:
                return (await loop.create_unix_connection(factory, sock=sock))[1]
        host, _, port = peer.host_and_port.rpartition(":")
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            return (await loop.create_connection(factory, host.strip("[]"), int(port)))[1]

    def _check_connected(self, peer: _Peer, pending: asyncio.Task[_ClientConnection]) -> None:
        if pending.cancelled() or pending.exception() is not None:
            self._forget(peer, pending)

    def _forget(self, peer: _Peer, task: asyncio.Task[_ClientConnection]) -> None:
        if self._connections.get(peer) is task:
            del self._connections[peer]


class TcpListener:
    """A handler that takes requests from sockets."""

    def __init__(self, server: _Server, target: str, handler: Handler) -> None:
        self._server = server
        self._target = target
        self.handler = handler
        self.running: dict[asyncio.Task[None], Responder] = {}

    @property
    def address(self) -> Address:
        return self._server.address_of(self._target)

    async def close(self, drain_s: float = 0.0) -> None:
        self._server.remove(self._target)
        if self.running and drain_s > 0:
            await asyncio.wait(list(self.running), timeout=drain_s)
        left = dict(self.running)
        for responder in left.values():
            responder.end(EngineShutdown("the instance stopped before the request was done"))
        if left:
            await asyncio.wait(list(left))


@dataclass(frozen=True, slots=True)
class _Peer:
    """A process that can be called: at a host and port, by a local name, or both."""

    host_and_port: str
    local_name: str

    def __str__(self) -> str:
        return self.host_and_port or self.local_name


@functools.lru_cache(maxsize=PEERS_CACHED_MAX)
def _parse(address: Address) -> tuple[_Peer, str]:
    """Return the process and the target within it. Cached: it is asked for with every request."""
    host_and_port, _, rest = address.removeprefix("tcp://").partition("/")
    target, _, query = rest.partition("?")
    return _Peer(host_and_port, query.removeprefix("local=")), target


@dataclass(slots=True)
class _Server:
    """The sockets of this process, and the handlers behind them."""

    address: str
    local_name: str
    sockets: list[asyncio.Server]
    listeners: dict[str, TcpListener]
    connections: set[_ServerConnection]
    targets: int = 0

    @classmethod
    async def start(cls, host: str, port: int, *, local: bool) -> _Server:
        loop = asyncio.get_running_loop()
        server = cls("", "", [], {}, set())
        factory = lambda: _ServerConnection(server)  # noqa: E731
        if not local or port or not _is_loopback(host):
            try:
                server.sockets.append(await loop.create_server(factory, host, port, backlog=1024))
            except OSError as error:
                raise ConfigError(
                    f"cannot listen for requests at {host}:{port} ({error.strerror}); "
                    "set DYN_REQUEST_PLANE=tcp://HOST:PORT"
                ) from error
            bound = server.sockets[0].sockets[0].getsockname()
            server.address = f"[{bound[0]}]:{bound[1]}" if ":" in bound[0] else f"{bound[0]}:{bound[1]}"
        if local:
            server.local_name = f"dynamo-{secrets.token_hex(16)}"
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            sock.bind("\0" + server.local_name)
            server.sockets.append(await loop.create_unix_server(factory, sock=sock, backlog=1024))
        return server

    def add(self, handler: Handler) -> TcpListener:
        self.targets += 1
        target = f"{self.targets:x}"
        listener = self.listeners[target] = TcpListener(self, target, handler)
        return listener

    def remove(self, target: str) -> None:
        self.listeners.pop(target, None)

    def address_of(self, target: str) -> Address:
        return f"tcp://{self.address}/{target}" + (f"?local={self.local_name}" if self.local_name else "")

    async def close(self) -> None:
        for server in self.sockets:
            server.close()
        for listener in list(self.listeners.values()):
            await listener.close()
        for connection in list(self.connections):
            connection.close(Disconnected("the request plane was closed"))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                for server in self.sockets:
                    await server.wait_closed()


class _ClientConnection(Connection):
    """The calling end: opens streams and feeds them."""

    def __init__(self, peer: str, on_gone: Callable[[], None]) -> None:
        super().__init__()
        self._peer = peer
        self._on_gone = on_gone
        self._streams: dict[int, ItemStream] = {}
        self._opened = 0

    def open(self, target: str, payload: bytes, context: Context) -> ItemStream:
        """Send a request and return the reading end of its responses."""
        if self.lost:
            raise CannotConnect(f"the connection to {self._peer} was just lost", address=self._peer)
        if len(self._streams) >= STREAMS_MAX:
            raise Overloaded(f"{STREAMS_MAX} requests to {self._peer} are open already", address=self._peer)
        self._opened += 1
        stream_id = self._opened
        stream = self._streams[stream_id] = _TcpStream(self, stream_id, context)
        request = wire.Request(
            stream_id, target, payload, context.request_id, STREAM_WINDOW_BYTES, context.remaining_s(), context.metadata
        )
        self.post(request, len(payload) + REQUEST_OVERHEAD_BYTES)
        stream.follow_context()
        return stream

    def forget(self, stream_id: int) -> None:
        """Drop what still arrives for a stream."""
        del self._streams[stream_id]

    def on_message(self, message: wire.Message) -> None:
        # A stream that is not there was left by its reader: what still arrives for it is dropped.
        if type(message) is wire.Items:
            stream = self._streams.get(message.stream_id)
            if stream is not None:
                stream.push(message.index, message.items)
        elif type(message) is wire.Final:
            stream = self._streams.get(message.stream_id)
            if stream is not None:
                stream.finish(message.count)
        elif type(message) is wire.Error:
            stream = self._streams.get(message.stream_id)
            if stream is not None:
                stream.fail(from_wire(message.layers))
        elif type(message) is not wire.Heartbeat:
            raise ProtocolError(f"a server does not send {type(message).__name__}")

    def on_lost(self, error: DynamoError) -> None:
        self._on_gone()
        for stream in list(self._streams.values()):
            lost = Disconnected(f"the worker at {self._peer} was lost: {error.message}", address=self._peer)
            lost.__cause__ = error
            stream.fail(lost)

    def has_streams(self) -> bool:
        return bool(self._streams)


class _TcpStream(ItemStream):
    __slots__ = ("_connection", "_stream_id")

    def __init__(self, connection: _ClientConnection, stream_id: int, context: Context) -> None:
        super().__init__(context, STREAM_WINDOW_BYTES)
        self._connection = connection
        self._stream_id = stream_id

    def on_credit(self, size_bytes: int) -> None:
        self._connection.post(wire.Credit(self._stream_id, size_bytes))

    def on_stop(self) -> None:
        self._connection.post(wire.Cancel(self._stream_id, kill=False))

    def on_end(self, abandoned: bool) -> None:
        self._connection.forget(self._stream_id)
        if abandoned and not self._connection.lost:
            self._connection.post(wire.Cancel(self._stream_id))


class _ServerConnection(Connection):
    """The serving end: starts a responder for each request."""

    def __init__(self, server: _Server) -> None:
        super().__init__()
        self._server = server
        self._responders: dict[int, _TcpResponder] = {}
        # The Items messages of this turn's frame, by stream: later items of the turn join them.
        self.open_items: dict[int, wire.Items] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if not _same_user(transport):
            cast("asyncio.Transport", transport).abort()
            return
        self._server.connections.add(self)
        super().connection_made(transport)

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
        deadline = None if request.timeout_s is None else self.loop.time() + request.timeout_s
        context = Context(request.request_id, request.metadata, deadline=deadline)
        responder = _TcpResponder(self, stream_id, context, min(request.window_bytes, STREAM_WINDOW_BYTES))
        listener = self._server.listeners.get(request.target)
        if listener is None:
            responder.send_error(WorkerUnavailable("the instance no longer serves this endpoint"))
        elif len(self._responders) >= STREAMS_MAX:
            responder.send_error(Overloaded(f"{STREAMS_MAX} requests run on one connection"))
        else:
            self._responders[stream_id] = responder
            task = responder.start(listener.handler, request.payload)
            listener.running[task] = responder
            running = listener.running

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
        self._server.connections.discard(self)
        for responder in self._responders.values():
            responder.abandon()

    def has_streams(self) -> bool:
        return bool(self._responders)


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


def _check_host(host: str, insecure: bool) -> None:
    try:
        unspecified = ipaddress.ip_address(_numeric(host)).is_unspecified
    except ValueError as error:
        raise ConfigError(f"DYN_REQUEST_PLANE: {host!r} is not an IP address to listen at") from error
    if unspecified:
        raise ConfigError(f"DYN_REQUEST_PLANE: {host} says not how others reach this host; name one of its addresses")
    if not _is_loopback(host) and not insecure:
        raise ConfigError(
            f"DYN_REQUEST_PLANE: other hosts could connect to {host}, and there are no credentials; "
            "listen at 127.0.0.1, or add ?insecure=1 on a network you trust"
        )


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(_numeric(host)).is_loopback


def _numeric(host: str) -> str:
    return "127.0.0.1" if host == "localhost" else host


def _same_user(transport: asyncio.BaseTransport) -> bool:
    """True unless the peer is on a Unix socket and belongs to another user."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family != socket.AF_UNIX:
        return True
    with socket.socket(fileno=os.dup(sock.fileno())) as peer:
        credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    uid = struct.unpack("3i", credentials)[1]
    return uid in (os.getuid(), 0)

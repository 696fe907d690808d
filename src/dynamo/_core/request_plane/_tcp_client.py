"""The calling end of a TCP connection: opens streams and feeds them."""

from __future__ import annotations

from collections.abc import Callable

from dynamo._core import wire
from dynamo._core.context import Context
from dynamo._core.errors import CannotConnect, Disconnected, DynamoError, Overloaded, ProtocolError, from_wire
from dynamo._core.request_plane._connection import Connection
from dynamo._core.request_plane._stream import ItemStream
from dynamo._core.request_plane.base import STREAM_WINDOW_BYTES, STREAMS_MAX

REQUEST_OVERHEAD_BYTES = 128


class ClientConnection(Connection):
    """A connection to a process that serves, and the streams from it."""

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

    def __init__(self, connection: ClientConnection, stream_id: int, context: Context) -> None:
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

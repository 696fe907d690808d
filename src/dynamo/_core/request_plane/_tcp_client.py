"""The calling end of a TCP connection: opens streams and feeds them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

from dynamo._core import wire
from dynamo._core._tls_failure import told
from dynamo._core.context import Context
from dynamo._core.credentials import TLS_CA, TLS_CERT, TLS_KEY
from dynamo._core.errors import (
    CannotConnect,
    Disconnected,
    DynamoError,
    Overloaded,
    ProtocolError,
    Stalled,
    Unauthorized,
    from_wire,
)
from dynamo._core.limits import (
    ITEM_OVERHEAD_BYTES,
    REQUEST_OVERHEAD_BYTES,
    STREAM_WINDOW_BYTES,
    STREAMS_MAX,
    UNSENT_REQUESTS_BYTES_MAX,
)
from dynamo._core.request_plane._connection import Connection
from dynamo._core.request_plane._handshake import Handshake
from dynamo._core.request_plane._stats import PlaneStats
from dynamo._core.request_plane._stream import ItemStream


class ClientConnection(Connection):
    """A connection to a process that serves, and the streams from it."""

    def __init__(self, peer: str, token: bytes | None, stats: PlaneStats, on_gone: Callable[[], None]) -> None:
        super().__init__(Handshake("client", token), stats)
        self._peer = peer
        self._on_gone = on_gone
        #: Done when requests may be sent; `CannotConnect` if that will never be.
        self.ready: asyncio.Future[None] = self.loop.create_future()
        self._streams: dict[int, ItemStream] = {}
        self._opened = 0

    def open(self, target: str, payload: bytes, context: Context) -> ItemStream:
        """Send a request and return the reading end of its responses."""
        if self.lost:
            raise CannotConnect(f"the connection to {self._peer} was just lost", address=self._peer)
        if len(self._streams) >= STREAMS_MAX:
            raise Overloaded(f"{STREAMS_MAX} requests to {self._peer} are open already", address=self._peer)
        if self.paused and self.unread_bytes > UNSENT_REQUESTS_BYTES_MAX:
            raise Overloaded(f"{self._peer} is slow to take the requests that are on their way", address=self._peer)
        self._opened += 1
        stream_id = self._opened
        stream = self._streams[stream_id] = _TcpStream(self, stream_id, context)
        request = wire.Request(
            stream_id, target, payload, context.request_id, STREAM_WINDOW_BYTES, context.remaining_s(), context.metadata
        )
        size_bytes = len(payload) + REQUEST_OVERHEAD_BYTES
        if metadata := context.metadata:
            parts = (*metadata, *metadata.values())
            size_bytes += sum(map(len, parts)) + ITEM_OVERHEAD_BYTES * len(metadata)
        self.post(request, size_bytes)
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

    def on_trusted(self) -> None:
        self.ready.set_result(None)

    def on_lost(self, error: DynamoError) -> None:
        self._on_gone()
        if not self.ready.done():
            self.ready.set_exception(refused(self._peer, error))
            self.ready.exception()  # it is no fault if nobody waits any more
        for stream in list(self._streams.values()):
            kind = Stalled if isinstance(error, Stalled) else Disconnected
            lost = kind(f"the worker at {self._peer} was lost: {error.message}", address=self._peer)
            lost.__cause__ = error
            stream.fail(lost)

    def has_streams(self) -> bool:
        return bool(self._streams)

    def where(self) -> str:
        return f"to {self._peer}"


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


def refused(peer: str, error: DynamoError) -> CannotConnect:
    """What a caller is told of a connection that was lost before it could be used."""
    if isinstance(error.__cause__, ssl.SSLError):
        return tls_failed(peer, error.__cause__)
    if isinstance(error, CannotConnect):
        refusal = type(error)(f"cannot connect to {peer}: {error.message}", **{**error.details, "address": peer})
    else:
        # A server that wants another certificate than ours says no more than this.
        hint = f"its log says why; it may ask for a certificate ({TLS_CERT}, {TLS_KEY}, {TLS_CA})"
        refusal = CannotConnect(f"cannot connect to {peer}: {error.message} before it let us in; {hint}", address=peer)
    refusal.__cause__ = error
    return refusal


def tls_failed(peer: str, error: ssl.SSLError) -> Unauthorized:
    """What a caller is told if one side does not accept the certificate of the other, or speaks no TLS."""
    failure = Unauthorized(
        f"cannot connect to {peer}: TLS failed: {told(error)}; both sides need a certificate ({TLS_CERT}, {TLS_KEY}) "
        f"that is valid today and of the authority in {TLS_CA}",
        address=peer,
    )
    failure.__cause__ = error
    return failure

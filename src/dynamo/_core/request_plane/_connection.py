"""One connection between two processes: frames in and out, one write per turn of the loop.

What one turn has to say is gathered in an outbox and leaves as one frame. A write costs a few
microseconds and an item a fraction of one, so this decides the throughput.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import cast

from dynamo._core import wire
from dynamo._core.errors import Disconnected, DynamoError, ProtocolError

logger = logging.getLogger(__name__)

#: A frame leaves early when this much has gathered.
FLUSH_BYTES = 256 << 10
#: With streams open, a turn of so long in which nothing was sent ends with a heartbeat,
HEARTBEAT_S = 2.0
#: and a peer that was silent for so many turns counts as lost: it is stopped, or its loop is blocked.
#: Turns and not seconds, because a loop that was blocked itself has yet to read what came meanwhile.
SILENT_TURNS_MAX = 3
STALL_S = HEARTBEAT_S * SILENT_TURNS_MAX
#: A closing connection has so long to deliver what it had to say.
CLOSE_TIMEOUT_S = 5.0
WRITE_BUFFER_BYTES = 1 << 20

_USER_TIMEOUT_MS = 3000


class Connection(asyncio.Protocol, ABC):
    """Either end of a connection. Subclasses say what a message means."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.paused = False
        self.lost = False
        self._transport: asyncio.Transport | None = None
        self._decoder = wire.Decoder()
        self._greeted = False
        self._outbox: list[wire.Message] = [wire.Hello()]
        self._outbox_bytes = 0
        self._flush_scheduled = False
        # What happened in this turn of the timer, and how many turns the peer has been silent.
        self._sent = False
        self._silent_turns = 0
        self._timer: asyncio.TimerHandle | None = None
        #: Done when the socket is closed.
        self.closed: asyncio.Future[None] = self.loop.create_future()

    # What subclasses supply.

    @abstractmethod
    def on_message(self, message: wire.Message) -> None:
        """Take a message; raise `ProtocolError` for one that this end does not expect."""

    @abstractmethod
    def has_streams(self) -> bool:
        """Whether a stream is open, so that the peer must be heard of."""

    def on_flushed(self) -> None:
        """The outbox has left: what was put there must not be changed any more."""

    def on_resumed(self) -> None:
        """The peer reads again."""

    def on_lost(self, error: DynamoError) -> None:
        """The connection is gone."""

    # Sending.

    def post(self, message: wire.Message, size_bytes: int = 64) -> None:
        """Put a message into this turn's frame."""
        self._outbox.append(message)
        self.grow(size_bytes)

    def grow(self, size_bytes: int) -> None:
        """Note that a message in the outbox has grown, and see to it that the outbox leaves."""
        self._outbox_bytes += size_bytes
        if self._outbox_bytes >= FLUSH_BYTES:
            self.flush()
        elif not self._flush_scheduled:
            self._flush_scheduled = True
            self.loop.call_soon(self._scheduled_flush)

    def _scheduled_flush(self) -> None:
        self._flush_scheduled = False
        self.flush()

    def flush(self) -> None:
        """Send what has gathered."""
        if not self._outbox or self._transport is None:
            return
        messages, self._outbox = self._outbox, []
        self._outbox_bytes = 0
        self.on_flushed()
        if self.lost:
            return
        try:
            frame = wire.encode(messages)
        except BaseException:
            # A fault of ours. Whoever waits for one of these messages must not wait for ever.
            self._lose(ProtocolError("a message could not be encoded; the log of this process says why"))
            self._transport.abort()
            raise
        self._transport.write(frame)
        self._sent = True

    def close(self, error: DynamoError) -> None:
        """Send what has gathered, then close; `error` is what the open streams end with."""
        if self.lost:
            return
        self.flush()
        self._lose(error)
        if self._transport is not None:
            self._transport.close()
            self._timer = self.loop.call_later(CLOSE_TIMEOUT_S, self._transport.abort)

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, because uvloop's transports are not subclasses of asyncio's.
        self._transport = transport = cast("asyncio.Transport", transport)
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        watch_for_dead_peer(transport)
        self._timer = self.loop.call_later(HEARTBEAT_S, self._tick)
        self.flush()

    def data_received(self, data: bytes) -> None:
        if self._greeted:  # a peer that trickles its hello is as good as silent
            self._silent_turns = 0
        try:
            for message in self._decoder.feed(data):
                if self._greeted:
                    self.on_message(message)
                else:
                    self._greet(message)
        except ProtocolError as error:
            logger.warning("closing a connection: %s", error)
            self.close(error)

    def _greet(self, message: wire.Message) -> None:
        if not isinstance(message, wire.Hello):
            raise ProtocolError("the peer did not say hello first")
        if message.major != wire.PROTOCOL_MAJOR:
            raise ProtocolError(f"the peer speaks protocol {message.major}; this process speaks {wire.PROTOCOL_MAJOR}")
        self._greeted = True

    def eof_received(self) -> None:
        # A peer that says nothing any more has left, even if it would still listen.
        self.close(Disconnected("the peer closed the connection"))

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self.on_resumed()

    def connection_lost(self, exc: Exception | None) -> None:
        error = Disconnected("the connection to the peer was lost")
        error.__cause__ = exc
        self._lose(error)
        self._cancel_timer()
        self.closed.set_result(None)

    def _lose(self, error: DynamoError) -> None:
        if self.lost:
            return
        self.lost = True
        self._cancel_timer()
        self.on_lost(error)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self) -> None:
        self._timer = self.loop.call_later(HEARTBEAT_S, self._tick)
        if not self._expects():
            self._silent_turns = 0
            return
        self._silent_turns += 1
        if self._silent_turns > SILENT_TURNS_MAX:
            self._lose(Disconnected(f"the peer was silent for {STALL_S:.0f} s: it is stopped, or its loop is blocked"))
            cast("asyncio.Transport", self._transport).abort()
        elif not self._sent:
            self.post(wire.Heartbeat())
            self.flush()
        self._sent = False

    def _expects(self) -> bool:
        """Whether the peer has something to say, even if it is only a heartbeat."""
        return self.has_streams() or not self._greeted or self._decoder.pending_bytes > 0


async def close_all(connections: Iterable[Connection]) -> None:
    """Close connections, and return when what they had to say is delivered, or their time is up."""
    closing = list(connections)
    for connection in closing:
        connection.close(Disconnected("the request plane was closed"))
    if closing:
        await asyncio.wait([connection.closed for connection in closing])


def watch_for_dead_peer(transport: asyncio.Transport) -> None:
    """Have the kernel report a peer that vanished without a word, within about three seconds."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", 1),
        ("TCP_KEEPINTVL", 1),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", _USER_TIMEOUT_MS),
    ):
        if hasattr(socket, name):  # Linux has them all, other systems some
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

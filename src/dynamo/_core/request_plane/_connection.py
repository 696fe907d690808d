"""One connection between two processes: frames in and out, one write per turn of the loop.

What one turn has to say is gathered in an outbox and leaves as one frame. A write costs a few
microseconds and an item a fraction of one, so this decides the throughput.

A peer is not listened to before the handshake is done, and one that breaks the protocol is cut: that
connection ends with a counted reason, and no other one hears of it.
"""

from __future__ import annotations

import asyncio
import socket
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import cast

from dynamo._core import wire
from dynamo._core.errors import CannotConnect, Disconnected, DynamoError, IncompatibleVersion, ProtocolError, Stalled
from dynamo._core.limits import (
    FLUSH_BYTES,
    FRAME_BYTES_PER_TURN_MIN,
    HELLO_FRAME_BYTES_MAX,
    UNREAD_BYTES_MAX,
    WRITE_BUFFER_BYTES,
)
from dynamo._core.request_plane import _stats
from dynamo._core.request_plane._handshake import Handshake
from dynamo._core.request_plane._stats import PlaneStats
from dynamo._core.watched_socket import watch_for_dead_peer

#: A connection looks around once a turn.
TURN_S = 1.0
#: With streams open, so many turns in which nothing was sent end with a heartbeat,
HEARTBEAT_TURNS = 2
#: and a peer that was silent for so many counts as lost: it is stopped, or its loop is blocked.
#: Turns and not seconds, because a loop that was blocked itself has yet to read what came meanwhile.
SILENT_TURNS_MAX = 6
STALL_S = TURN_S * SILENT_TURNS_MAX
#: A frame has so many turns to come, and one more for each `FRAME_BYTES_PER_TURN_MIN` of it that is there: a slow
#: link takes its time, and a peer that trickles a frame is not waited for.
FRAME_TURNS_MAX = 30
#: Who has not proved by then who it is does not get in.
HELLO_TURNS_MAX = 3
HELLO_TIMEOUT_S = TURN_S * HELLO_TURNS_MAX
#: A closing connection has so long to deliver what it had to say.
CLOSE_TIMEOUT_S = 5.0

_OVERSIZE = "oversize_frame"


class Connection(asyncio.Protocol, ABC):
    """Either end of a connection. Subclasses say what a message means."""

    def __init__(self, handshake: Handshake, stats: PlaneStats) -> None:
        self.loop = asyncio.get_running_loop()
        self.stats = stats
        self.paused = False
        self.lost = False
        self._transport: asyncio.Transport | None = None
        self._decoder = wire.Decoder()
        self._handshake = handshake
        # Whether the peer has said hello, and proved what it has to. Asked for each message, so it is kept here, too.
        self._trusted = False
        self._is_guarded = bool(handshake.hello.nonce)
        self._outbox: list[wire.Message] = [handshake.hello]
        self._outbox_bytes = 0
        self._flush_scheduled = False
        # For how many turns of the timer nothing was sent, and nothing came.
        self._quiet_turns = 0
        self._silent_turns = 0
        # For how many turns a frame has been coming.
        self._frame_turns = 0
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

    @abstractmethod
    def where(self) -> str:
        """From or to whom it is, for the log."""

    def on_trusted(self) -> None:
        """The handshake is done."""

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
        self.stats.bytes_sent += len(frame)
        self._quiet_turns = 0
        if self.paused and self.unread_bytes > UNREAD_BYTES_MAX:
            self.stats.close_unread(self.where(), self.unread_bytes, self.loop.time())
            self.abort(Disconnected("the peer reads nothing of what it is sent"))

    @property
    def unread_bytes(self) -> int:
        """What the socket has not taken yet."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def close(self, error: DynamoError) -> None:
        """Send what has gathered, then close; `error` is what the open streams end with."""
        if self.lost:
            return
        self.flush()
        self._lose(error)
        if self._transport is not None:
            self._transport.close()
            self._timer = self.loop.call_later(CLOSE_TIMEOUT_S, self._transport.abort)

    def abort(self, error: DynamoError) -> None:
        """Close without waiting for anything."""
        self._lose(error)
        if self._transport is not None:
            self._transport.abort()

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, because uvloop's transports are not subclasses of asyncio's.
        self._transport = transport = cast("asyncio.Transport", transport)
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            watch_for_dead_peer(sock)
        self.stats.num_connections += 1
        self.stats.num_connections_opened += 1
        if self.lost:  # it was given up while it was made
            transport.abort()
            return
        self.start_timer()
        self.flush()

    def data_received(self, data: bytes) -> None:
        if self.lost:  # what comes while we close comes too late
            return
        self.stats.bytes_received += len(data)
        if self._trusted:  # a peer that trickles its hello is as good as silent
            self._silent_turns = 0
        try:
            messages = self._decoder.feed(data)
            if messages:
                self._frame_turns = 0
            for message in messages:
                if self._trusted:
                    self.on_message(message)
                else:
                    self._greet(message)
            if self._is_guarded and not self._trusted and self._decoder.pending_bytes > HELLO_FRAME_BYTES_MAX:
                raise ProtocolError("the peer says more than a hello before it has proved who it is", reason=_OVERSIZE)
        except ProtocolError as error:
            self._reject(error)
            self.close(error)
        except CannotConnect as error:
            incompatible = isinstance(error, IncompatibleVersion)
            reason = _stats.INCOMPATIBLE_VERSION if incompatible else _stats.UNAUTHORIZED
            self.stats.fail_hello(reason, self.where(), error.message, self.loop.time())
            self.close(error)

    def _reject(self, error: ProtocolError) -> None:
        self.stats.reject(str(error.details.get("reason")), self.where(), error.message, self.loop.time())

    def _greet(self, message: wire.Message) -> None:
        answer = self._handshake.take(message)
        if answer is not None:
            self.post(answer)
            self.flush()  # alone: what a frame of a stranger may hold is little
        if self._handshake.done:
            self._trusted = True
            self._silent_turns = 0
            self.on_trusted()

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
        if self._transport is not None:
            self.stats.num_connections -= 1
        self.stats.num_messages_ignored += self._decoder.num_ignored
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

    def start_timer(self) -> None:
        """Begin to look around."""
        if self._timer is None:
            self._timer = self.loop.call_later(TURN_S, self._tick)

    def _tick(self) -> None:
        self._timer = self.loop.call_later(TURN_S, self._tick)
        pending_bytes = self._decoder.pending_bytes
        self._frame_turns = self._frame_turns + 1 if pending_bytes else 0
        if not self._expects():
            self._silent_turns = self._quiet_turns = 0
            return
        self._silent_turns += 1
        self._quiet_turns += 1
        if not self._trusted:
            if self._silent_turns >= HELLO_TURNS_MAX:
                self._give_up_hello()
        elif self._silent_turns > SILENT_TURNS_MAX:
            self.abort(Stalled(f"the peer was silent for {STALL_S:.0f} s: it is stopped, or its loop is blocked"))
        elif self._frame_turns > FRAME_TURNS_MAX + pending_bytes // FRAME_BYTES_PER_TURN_MIN:
            what = f"{pending_bytes} bytes of a frame came within {self._frame_turns * TURN_S:.0f} s, and not its end"
            error = ProtocolError(what, reason=_stats.UNFINISHED)
            self._reject(error)
            self.abort(error)
        elif self._quiet_turns >= HEARTBEAT_TURNS:
            self.post(wire.Heartbeat())
            self.flush()

    def _give_up_hello(self) -> None:
        if self._transport is None:
            self.refuse_tls(f"the peer did not finish the handshake of TLS within {HELLO_TIMEOUT_S:.0f} s")
            return
        error = CannotConnect(f"the peer did not say hello within {HELLO_TIMEOUT_S:.0f} s")
        self.stats.fail_hello(_stats.NO_HELLO, self.where(), error.message, self.loop.time())
        self.abort(error)

    def refuse_tls(self, message: str) -> None:
        """Give up a connection whose handshake of TLS has failed, if that was not done before."""
        if not self.lost:
            self.stats.fail_hello(_stats.TLS, self.where(), message, self.loop.time())
            self.abort(CannotConnect(message))

    def _expects(self) -> bool:
        """Whether the peer has something to say, even if it is only a heartbeat."""
        return self.has_streams() or not self._trusted or self._decoder.pending_bytes > 0


async def close_all(connections: Iterable[Connection]) -> None:
    """Close connections, and return when what they had to say is delivered, or their time is up."""
    closing = list(connections)
    for connection in closing:
        connection.close(Disconnected("the request plane was closed"))
    if closing:
        await asyncio.wait([connection.closed for connection in closing])

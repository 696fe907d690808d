"""Reads one subject from every publisher that discovery knows: a SUB socket that follows them.

The socket is read as soon as anything arrives, into the subscription's own bounded queue. So a reader that is
slow loses the oldest events, which is better than what ZeroMQ would do: lose the newest.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Mapping
from contextlib import aclosing

import msgspec
import zmq

from dynamo._core.address import event_channels_prefix, is_event_channel
from dynamo._core.discovery import Delete, Discovery, Put, Synced
from dynamo._core.errors import DynamoError, ProtocolError
from dynamo._core.event_plane._envelope import deliver, note_unreadable
from dynamo._core.event_plane._inbox import Inbox
from dynamo._core.event_plane._zmq_curve import CurveKeys, Handshakes
from dynamo._core.event_plane.base import EventStats
from dynamo._core.limits import CHANNELS_MAX, ENVELOPE_BYTES_MAX, ZMQ_RECEIVE_MESSAGES_MAX
from dynamo._core.stability import stable

logger = logging.getLogger(__name__)

#: A message is subject, publisher, sequence and envelope.
FRAMES = 4
ID_BYTES = 8
READS_PER_TURN = 512
RETRY_S_MIN, RETRY_S_MAX = 0.1, 5.0
#: A peer that says nothing for so long, not even to ZeroMQ's own question, is gone.
HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS = 2000, 6000
#: How often a publisher that cannot be reached is tried again.
RECONNECT_MS_MIN, RECONNECT_MS_MAX = 100, 5000

_NOBLOCK = int(zmq.NOBLOCK)
_ADDRESS = re.compile(r"tcp://(?:[0-9A-Za-z.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):([0-9]{1,5})")


@stable(since="0.1")
class ChannelRecord(msgspec.Struct):
    """What discovery holds of a publisher."""

    transport: dict[str, str]


class ZmqReader:
    """Fills one subscription until it is closed."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        discovery: Discovery,
        inbox: Inbox,
        stats: EventStats,
        keys: CurveKeys | None,
        *,
        watches_handshakes: bool,
    ) -> None:
        self._inbox = inbox
        self._stats = stats
        self._discovery = discovery
        self._loop = asyncio.get_running_loop()
        self._topic = inbox.subject.encode()
        # Where each channel's publisher is, as discovery last said.
        self._channels: dict[str, str] = {}
        self._addresses: Counter[str] = Counter()
        # Where somebody was until just now: what has arrived from there is read first.
        self._left: set[str] = set()
        self._socket = _open_socket(context, self._topic)
        self._handshakes: Handshakes | None = None
        if keys is not None:
            keys.secure_listener(self._socket)
        if watches_handshakes:
            self._handshakes = Handshakes(context, self._socket, f"listening to {inbox.subject} on the", stats)
        self._fd = self._socket.fileno()
        self._loop.add_reader(self._fd, self._read)
        self._again: asyncio.Handle | None = None
        self._following = asyncio.create_task(self._follow())

    def stop(self) -> None:
        """Free what this holds."""
        self._following.cancel()
        self._loop.remove_reader(self._fd)
        if self._again is not None:
            self._again.cancel()
        if self._handshakes is not None:
            self._handshakes.close()
        self._socket.close(linger=0)

    async def stopped(self) -> None:
        """Wait until nothing runs any more, after `stop`."""
        await asyncio.wait([self._following])

    # Where the publishers are.

    async def _follow(self) -> None:
        """Follow discovery; if it is not there yet, try again until it is."""
        delay_s = RETRY_S_MIN
        while True:
            try:
                unconfirmed = set(self._channels)
                async with aclosing(self._discovery.watch(event_channels_prefix(self._inbox.subject))) as changes:
                    async for change in changes:
                        delay_s = RETRY_S_MIN
                        if isinstance(change, Put) and is_event_channel(self._inbox.subject, change.key):
                            unconfirmed.discard(change.key)
                            self._put(change)
                        elif isinstance(change, Delete):
                            self._leave(self._channels.pop(change.key, None))
                        elif isinstance(change, Synced):  # who left between two watches is told of by none
                            for key in unconfirmed:
                                self._leave(self._channels.pop(key, None))
                return  # discovery is closed: those who are known are heard until we close, too
            except (DynamoError, OSError) as error:
                logger.warning(
                    "the publishers of %s cannot be looked up; trying again in %.1f s: %s",
                    self._inbox.subject,
                    delay_s,
                    error,
                )
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, RETRY_S_MAX)

    def _put(self, change: Put) -> None:
        try:
            address = _address(change)
            if len(self._channels) + len(self._left) >= CHANNELS_MAX and change.key not in self._channels:
                raise ProtocolError(f"the publisher {change.key[-16:]}, one more than {CHANNELS_MAX}")
            before = self._channels.get(change.key)
            if address == before:
                return
            if self._addresses[address] == 0 and address not in self._left:
                self._socket.connect(address)
            self._left.discard(address)
        except (ProtocolError, zmq.ZMQError) as error:
            note_unreadable(self._stats, self._inbox.subject, ProtocolError(str(error)))
            return
        self._channels[change.key] = address
        self._addresses[address] += 1
        self._leave(before)
        # ZeroMQ tells the loop of an arrival once, and connecting may have taken note of it in the loop's place.
        self._read_again()

    def _leave(self, address: str | None) -> None:
        if address is None:
            return
        self._addresses[address] -= 1
        if self._addresses[address] == 0:
            del self._addresses[address]
            self._left.add(address)
            self._read_again()

    # What they say.

    def _read(self) -> None:
        for _ in range(READS_PER_TURN):
            try:
                frames = self._receive()
            except zmq.Again:
                self._disconnect()
                return
            try:
                self._take(frames)
            except ProtocolError as error:
                note_unreadable(self._stats, self._inbox.subject, error)
        self._read_again()

    def _disconnect(self) -> None:
        """Let go of those who have left, now that nothing of theirs waits: ZeroMQ would throw it away."""
        if self._left:
            for address in self._left:
                self._socket.disconnect(address)
            self._left.clear()
            self._read_again()

    def _read_again(self) -> None:
        if self._again is not None:
            self._again.cancel()
        self._again = self._loop.call_soon(self._read)

    def _receive(self) -> list[bytes]:
        """Return the frames of the next message, and of one that has too many only the first."""
        receive = self._socket.recv
        frame = receive(_NOBLOCK, copy=False)
        frames = [frame.bytes]
        while frame.more:
            frame = receive(_NOBLOCK, copy=False)
            if len(frames) <= FRAMES:
                frames.append(frame.bytes)
        return frames

    def _take(self, frames: list[bytes]) -> None:
        if len(frames) != FRAMES:
            raise ProtocolError(f"a message of {len(frames)} frames or more")
        topic, publisher_id, sequence, envelope = frames
        if topic != self._topic:
            return  # a subject that only begins like ours
        if len(publisher_id) != ID_BYTES or len(sequence) != ID_BYTES:
            raise ProtocolError("a message without a publisher and a sequence")
        deliver(envelope, self._inbox)


def _open_socket(context: zmq.Context[zmq.Socket[bytes]], topic: bytes) -> zmq.Socket[bytes]:
    socket = context.socket(zmq.SUB)
    socket.setsockopt(zmq.RCVHWM, ZMQ_RECEIVE_MESSAGES_MAX)
    socket.setsockopt(zmq.MAXMSGSIZE, ENVELOPE_BYTES_MAX)
    socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS_MIN)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MS_MAX)
    set_heartbeat(socket)
    socket.setsockopt(zmq.IPV6, 1)
    socket.setsockopt(zmq.SUBSCRIBE, topic)
    return socket


def set_heartbeat(socket: zmq.Socket[bytes]) -> None:
    """Let ZeroMQ notice by itself a peer that has stopped or vanished, and free what it keeps for it."""
    socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)


def _address(change: Put) -> str:
    try:
        record = msgspec.json.decode(change.value, type=ChannelRecord)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"the record {change.key[:300]!r} in discovery: {error}") from error
    address = record.transport.get("zmq", "")
    match = _ADDRESS.fullmatch(address)
    if match is None or not 0 < int(match[1]) < 1 << 16:
        raise ProtocolError(f"the address {address[:200]!r} of an event publisher")
    return address


def channel_record(address: str) -> bytes:
    """Return what discovery holds of a publisher that is reached at `address`."""
    transport: Mapping[str, str] = {"zmq": address}
    return msgspec.json.encode(ChannelRecord(dict(transport)))

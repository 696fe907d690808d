"""An event as bytes: `0x01`, the length of what follows as u32 big-endian, and a msgpack map.

`0x02` in front makes it a head: it has no payload, and says how far its publisher has counted. What comes from
the network is read here, and by nobody else: anything that is not exactly this is a `ProtocolError`.
"""

from __future__ import annotations

import logging
import time

import msgspec

from dynamo._core.errors import ProtocolError
from dynamo._core.event_plane._inbox import Inbox
from dynamo._core.event_plane.base import EventStats
from dynamo._core.limits import ENVELOPE_BYTES_MAX, EVENT_BYTES_MAX
from dynamo._core.stability import stable

logger = logging.getLogger(__name__)

EVENT, HEAD = 1, 2
_PREFIX_BYTES = 5


@stable(since="0.1")
class Message(msgspec.Struct):
    """What an envelope holds. `published_at` is in milliseconds since 1970, for people who look at the wire."""

    publisher_id: int
    sequence: int
    published_at: int = 0
    topic: str = ""
    payload: bytes = b""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)


def encode(kind: int, publisher_id: int, sequence: int, subject: str, payload: bytes = b"") -> bytes:
    """Return the bytes of an event or a head."""
    message = Message(publisher_id, sequence, time.time_ns() // 1_000_000, subject, payload)
    buffer = bytearray(_PREFIX_BYTES)
    _encoder.encode_into(message, buffer, _PREFIX_BYTES)
    buffer[0] = kind
    buffer[1:_PREFIX_BYTES] = (len(buffer) - _PREFIX_BYTES).to_bytes(4, "big")
    return bytes(buffer)


def decode(data: bytes) -> tuple[int, Message]:
    """Return the kind of an envelope and what it holds. Raises `ProtocolError`."""
    if not _PREFIX_BYTES < len(data) <= ENVELOPE_BYTES_MAX:
        raise ProtocolError(f"an event of {len(data)} bytes")
    if data[0] not in (EVENT, HEAD):
        raise ProtocolError(f"an event of the unknown kind {data[0]}")
    if int.from_bytes(data[1:_PREFIX_BYTES], "big") != len(data) - _PREFIX_BYTES:
        raise ProtocolError("an event that is not as long as it says")
    try:
        message = _decoder.decode(memoryview(data)[_PREFIX_BYTES:])
    except (ValueError, RecursionError) as error:  # msgspec's errors and Unicode's are ValueErrors
        raise ProtocolError(f"an event that cannot be read: {error}") from error
    if message.publisher_id < 0 or message.sequence < 0 or len(message.payload) > EVENT_BYTES_MAX:
        raise ProtocolError("an event with a number or a payload out of range")
    return data[0], message


def deliver(data: bytes, inbox: Inbox) -> None:
    """Read an envelope and give what it holds to a subscription. Raises `ProtocolError`."""
    kind, message = decode(data)
    if kind == EVENT:
        inbox.push(message.publisher_id, message.sequence, message.payload)
    else:
        inbox.head(message.publisher_id, message.sequence)


def note_unreadable(stats: EventStats, subject: str, error: ProtocolError) -> None:
    """Count what was ignored; say so the first time, and each time that the count has doubled."""
    stats.num_unreadable += 1
    if stats.num_unreadable.bit_count() == 1:
        logger.warning(
            "%d unreadable messages on the event plane were ignored so far; the last one, for %r, was %s",
            stats.num_unreadable,
            subject,
            error.message,
        )

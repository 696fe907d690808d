"""Frames: bytes in, messages out, and the other way round. No sockets here.

A frame is an eight-byte header (magic, flags, length of the body) and a body: a msgpack array of
messages. One frame carries whatever a peer had to say in one turn of its loop, in order, for all of
its streams. That is where the speed comes from: one header, one decode and one write for many items.

What is true here:

- The length is checked before anything is stored, so a hostile length allocates nothing, and so is the
  number of messages before they are made.
- Garbage raises `ProtocolError`, never anything else.
- A message is an array that begins with its number. Fields are only ever added at the end: a peer that
  does not know them ignores them, and the bytes in `tests/golden/wire` decode for ever.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import msgspec

from dynamo._core.errors import ProtocolError, WireError

PROTOCOL_MAJOR = 1
PROTOCOL_MINOR = 0

HEADER = struct.Struct(">HHI")
MAGIC = 0x4459  # "DY"
FRAME_BYTES_MAX = 40 << 20
#: Messages in one frame: a message is small, and far larger in memory than on the wire.
MESSAGES_MAX = 65535

# How msgpack begins an array that is longer than that.
_ARRAY_32 = 0xDD


class Hello(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """The first message in each direction: who speaks, and which protocol."""

    major: int = PROTOCOL_MAJOR
    minor: int = PROTOCOL_MINOR
    capabilities: list[str] = []


class Request(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """Opens a stream. `timeout_s` is what is left of the deadline: clocks differ, durations do not."""

    stream_id: int
    target: str
    payload: bytes
    request_id: str
    window_bytes: int
    timeout_s: float | None = None
    metadata: dict[str, str] = {}


class Items(msgspec.Struct, array_like=True, tag=3):
    """Some items of one stream; `index` is the position of the first of them."""

    stream_id: int
    index: int
    items: list[bytes]


class Final(msgspec.Struct, array_like=True, frozen=True, tag=4):
    """The stream is complete and had `count` items."""

    stream_id: int
    count: int


class Error(msgspec.Struct, array_like=True, frozen=True, tag=5):
    """The stream ended after `count` items with an error: its layers, outermost first."""

    stream_id: int
    count: int
    layers: list[WireError]


class Cancel(msgspec.Struct, array_like=True, frozen=True, tag=6):
    """The caller wants no more. `kill` false asks for a soft end."""

    stream_id: int
    kill: bool = True


class Credit(msgspec.Struct, array_like=True, frozen=True, tag=7):
    """The reader has consumed this many bytes more; the producer may send as many."""

    stream_id: int
    size_bytes: int


class Heartbeat(msgspec.Struct, array_like=True, frozen=True, tag=8):
    """Nothing to say, still alive."""


Message = Hello | Request | Items | Final | Error | Cancel | Credit | Heartbeat

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Message])


def encode(messages: Sequence[Message]) -> bytes:
    """Return one frame that carries `messages`."""
    body = _encoder.encode(messages)
    if len(body) > FRAME_BYTES_MAX:
        raise ProtocolError(f"a frame of {len(body)} bytes exceeds the limit of {FRAME_BYTES_MAX}")
    return HEADER.pack(MAGIC, 0, len(body)) + body


class Decoder:
    """Turns a stream of bytes, however it is cut, into messages."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """Return the messages that are complete now. Raises `ProtocolError` on anything unexpected."""
        if not self._buffer:
            # The common case: whole frames. They are decoded in place and nothing is copied.
            messages, used = _split(data)
            if used != len(data):
                self._buffer += memoryview(data)[used:]
            return messages
        self._buffer += data
        if len(self._buffer) < HEADER.size or len(self._buffer) < HEADER.size + _body_size(self._buffer, 0):
            return []
        complete = bytes(self._buffer)
        messages, used = _split(complete)
        del self._buffer[:used]
        return messages

    @property
    def pending_bytes(self) -> int:
        """Bytes of a frame that is not complete yet."""
        return len(self._buffer)


def _split(data: bytes) -> tuple[list[Message], int]:
    """Return the messages of the complete frames at the start of `data`, and the bytes they take."""
    messages: list[Message] = []
    start, size = 0, len(data)
    view = memoryview(data)
    while size - start >= HEADER.size:
        end = start + HEADER.size + _body_size(data, start)
        if end > size:
            break
        body = _decode(view[start + HEADER.size : end])
        if messages:
            messages += body
        else:
            messages = body
        start = end
    return messages, start


def _body_size(data: bytes | bytearray, start: int) -> int:
    magic, _flags, length = HEADER.unpack_from(data, start)
    if magic != MAGIC:
        raise ProtocolError(f"the peer does not speak this protocol: its frame begins with {magic:#06x}")
    if length > FRAME_BYTES_MAX:
        raise ProtocolError(f"the peer announces a frame of {length} bytes; the limit is {FRAME_BYTES_MAX}")
    return int(length)


def _decode(body: memoryview) -> list[Message]:
    if body and body[0] == _ARRAY_32:
        raise ProtocolError(f"the peer sent a frame of more than {MESSAGES_MAX} messages")
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise ProtocolError(f"the peer sent a frame that cannot be read: {error}") from error

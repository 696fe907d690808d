"""Frames: bytes in, messages out, and the other way round. No sockets here.

A frame is an eight-byte header (magic, flags, length of the body) and a body: a msgpack array of
messages. One frame carries whatever a peer had to say in one turn of its loop, in order, for all of
its streams. That is where the speed comes from: one header, one decode and one write for many items.

What is true here:

- The length is checked before anything is stored, so a hostile length allocates nothing, and so is the
  number of messages, and of what is in them, before they are made.
- Garbage raises `ProtocolError`, never anything else, and its detail `reason` is one of `REASONS`.
- A message is an array that begins with its number. Fields are only ever added at the end: a peer that
  does not know them ignores them, and the bytes in `tests/golden/wire` decode for ever. A message whose
  number we do not know is of a newer peer, and is left out.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from dynamo._core.errors import ProtocolError, WireError
from dynamo._core.limits import (
    CAPABILITIES_MAX,
    ERROR_LAYERS_READ_MAX,
    FRAME_BYTES_MAX,
    FRAME_PARTS_MAX,
    MESSAGES_MAX,
    METADATA_ENTRIES_MAX,
    SMALL_FRAME_BYTES_MAX,
)
from dynamo._core.stability import stable

#: Another major version is another language. A minor one adds fields and messages that others may ignore.
PROTOCOL_MAJOR = 1
PROTOCOL_MINOR = 1

HEADER = struct.Struct(">HHI")
MAGIC = 0x4459  # "DY"

#: Why bytes are not frames of ours.
REASONS = ("bad_magic", "oversize_frame", "too_many_messages", "too_many_parts", "unreadable")

# How msgpack begins an array that is longer than that.
_ARRAY_32 = 0xDD
# How TLS begins what it says, and what it complains of.
_TLS_MAGICS = (0x1603, 0x1503)


@stable(since="0.1")
class Hello(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """The first message in each direction: who speaks, and which protocol.

    A `nonce` is a challenge: whoever gets it answers with the `Proof` that he knows the token of the cluster.
    """

    major: int = PROTOCOL_MAJOR
    minor: int = PROTOCOL_MINOR
    capabilities: Annotated[list[str], Meta(max_length=CAPABILITIES_MAX)] = []
    nonce: bytes = b""


@stable(since="0.1")
class Request(msgspec.Struct, array_like=True, frozen=True, tag=2):
    """Opens a stream. `timeout_s` is what is left of the deadline: clocks differ, durations do not."""

    stream_id: int
    target: str
    payload: bytes
    request_id: str
    window_bytes: int
    timeout_s: float | None = None
    metadata: Annotated[dict[str, str], Meta(max_length=METADATA_ENTRIES_MAX)] = {}


@stable(since="0.1")
class Items(msgspec.Struct, array_like=True, tag=3):
    """Some items of one stream; `index` is the position of the first of them."""

    stream_id: int
    index: int
    items: Annotated[list[bytes], Meta(max_length=FRAME_PARTS_MAX)]


@stable(since="0.1")
class Final(msgspec.Struct, array_like=True, frozen=True, tag=4):
    """The stream is complete and had `count` items."""

    stream_id: int
    count: int


@stable(since="0.1")
class Error(msgspec.Struct, array_like=True, frozen=True, tag=5):
    """The stream ended after `count` items with an error: its layers, outermost first."""

    stream_id: int
    count: int
    layers: Annotated[list[WireError], Meta(max_length=ERROR_LAYERS_READ_MAX)]


@stable(since="0.1")
class Cancel(msgspec.Struct, array_like=True, frozen=True, tag=6):
    """The caller wants no more. `kill` false asks for a soft end."""

    stream_id: int
    kill: bool = True


@stable(since="0.1")
class Credit(msgspec.Struct, array_like=True, frozen=True, tag=7):
    """The reader has consumed this many bytes more; the producer may send as many."""

    stream_id: int
    size_bytes: int


@stable(since="0.1")
class Heartbeat(msgspec.Struct, array_like=True, frozen=True, tag=8):
    """Nothing to say, still alive."""


@stable(since="0.1")
class Proof(msgspec.Struct, array_like=True, frozen=True, tag=9):
    """The answer to the nonce in the peer's hello."""

    digest: bytes


Message = Hello | Request | Items | Final | Error | Cancel | Credit | Heartbeat | Proof

_NUMBERS = frozenset(range(1, 10))


class _Numbered(msgspec.Struct, array_like=True):
    """The beginning of any message, of any version."""

    number: int


def _plain(value: object) -> object:
    """Return a text, or bytes, of a subclass as what it is: whoever made it must not end a connection with it."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, bytes):
        return bytes(value)
    raise TypeError(f"{type(value).__name__} cannot be sent")


_encoder = msgspec.msgpack.Encoder(enc_hook=_plain)
_decoder = msgspec.msgpack.Decoder(list[Message])
_number_decoder = msgspec.msgpack.Decoder(list[_Numbered])
_raw_decoder = msgspec.msgpack.Decoder(list[msgspec.Raw])
_one_decoder = msgspec.msgpack.Decoder(Message)

#: What msgspec raises for bytes that are not what was expected.
_UNREADABLE = (msgspec.MsgspecError, RecursionError, ValueError)


def encode(messages: Sequence[Message]) -> bytes:
    """Return one frame that carries `messages`."""
    body = _encoder.encode(messages)
    if len(body) > FRAME_BYTES_MAX:
        raise ProtocolError(f"a frame of {len(body)} bytes exceeds the limit of {FRAME_BYTES_MAX}")
    return HEADER.pack(MAGIC, 0, len(body)) + body


class Decoder:
    """Turns a stream of bytes, however it is cut, into messages.

    `num_ignored` counts the messages of a newer peer that were left out.
    """

    __slots__ = ("_buffer", "num_ignored")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.num_ignored = 0

    def feed(self, data: bytes) -> list[Message]:
        """Return the messages that are complete now. Raises `ProtocolError` on anything unexpected."""
        if not self._buffer:
            # The common case: whole frames. They are decoded in place and nothing is copied.
            messages, used = self._split(data)
            if used != len(data):
                self._buffer += memoryview(data)[used:]
            return messages
        self._buffer += data
        if len(self._buffer) < HEADER.size or len(self._buffer) < HEADER.size + self._body_size(self._buffer, 0):
            return []
        complete = bytes(self._buffer)
        messages, used = self._split(complete)
        del self._buffer[:used]
        return messages

    @property
    def pending_bytes(self) -> int:
        """Bytes of a frame that is not complete yet."""
        return len(self._buffer)

    def _split(self, data: bytes) -> tuple[list[Message], int]:
        """Return the messages of the complete frames at the start of `data`, and the bytes they take."""
        messages: list[Message] = []
        start, size = 0, len(data)
        view = memoryview(data)
        while size - start >= HEADER.size:
            end = start + HEADER.size + self._body_size(data, start)
            if end > size:
                break
            body = self._decode(view[start + HEADER.size : end])
            if messages:
                messages += body
            else:
                messages = body
            start = end
        return messages, start

    def _body_size(self, data: bytes | bytearray, start: int) -> int:
        magic, _flags, length = HEADER.unpack_from(data, start)
        if magic != MAGIC:
            what = "it speaks TLS" if magic in _TLS_MAGICS else f"its frame begins with {magic:#06x}"
            raise ProtocolError(f"the peer does not speak this protocol: {what}", reason="bad_magic")
        if length > FRAME_BYTES_MAX:
            raise ProtocolError(
                f"the peer announces a frame of {length} bytes; the limit is {FRAME_BYTES_MAX}",
                reason="oversize_frame",
            )
        return int(length)

    def _decode(self, body: memoryview) -> list[Message]:
        if body and body[0] == _ARRAY_32:
            raise ProtocolError(
                f"the peer sent a frame of more than {MESSAGES_MAX} messages", reason="too_many_messages"
            )
        try:
            return _decoder.decode(body) if len(body) <= SMALL_FRAME_BYTES_MAX else _counted(_raw_decoder.decode(body))
        except _UNREADABLE as error:
            # Seldom, so that what is known costs nothing: a newer peer may say what we do not know.
            return self._decode_known(body, error)

    def _decode_known(self, body: memoryview, error: Exception) -> list[Message]:
        """Return the messages whose number we know. Raises `ProtocolError` if that was not what is wrong."""
        try:
            known = [numbered.number in _NUMBERS for numbered in _number_decoder.decode(body)]
            if not all(known):
                raws = zip(_raw_decoder.decode(body), known, strict=True)
                messages = _counted(raw for raw, is_known in raws if is_known)
                self.num_ignored += len(known) - len(messages)
                return messages
        except _UNREADABLE as other:
            error = other
        raise ProtocolError(f"the peer sent a frame that cannot be read: {error}", reason="unreadable") from error


def _counted(raws: Iterable[msgspec.Raw]) -> list[Message]:
    """Return the messages of a frame. Raises `ProtocolError` if there is too much in them, before the rest is made."""
    messages: list[Message] = []
    num_parts = 0
    for raw in raws:
        message = _one_decoder.decode(raw)
        num_parts += _num_parts(message)
        if num_parts > FRAME_PARTS_MAX:
            raise ProtocolError(
                f"the peer sent a frame of more than {FRAME_PARTS_MAX} items and entries", reason="too_many_parts"
            )
        messages.append(message)
    return messages


def _num_parts(message: Message) -> int:
    if isinstance(message, Items):
        return len(message.items)
    if isinstance(message, Request):
        return len(message.metadata)
    if isinstance(message, Error):
        return sum(1 + len(layer.details) for layer in message.layers)
    return len(message.capabilities) if isinstance(message, Hello) else 0

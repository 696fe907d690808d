"""Frames survive any cut, garbage is refused, and old bytes decode for ever."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo._core import wire
from dynamo._core.errors import ProtocolError, WireError

GOLDEN = Path(__file__).parents[1] / "golden" / "wire"

#: One of each message, with every field set: the bytes of each are a file in `golden/wire`.
MESSAGES: dict[str, wire.Message] = {
    "hello": wire.Hello(1, 0, ["example"]),
    "request": wire.Request(7, "2", b"\x93\x01\x02\x03", "request-1", 1048576, 2.5, {"tenant": "a"}),
    "items": wire.Items(7, 3, [b"one", b"", b"three"]),
    "final": wire.Final(7, 6),
    "error": wire.Error(7, 6, [WireError("overloaded", "full", {"limit": 3}), WireError("unknown", "why")]),
    "cancel": wire.Cancel(7, False),
    "credit": wire.Credit(7, 524288),
    "heartbeat": wire.Heartbeat(),
}

ids = st.integers(0, 2**53)
messages = st.one_of(
    st.builds(wire.Items, ids, ids, st.lists(st.binary(max_size=40), max_size=5)),
    st.builds(wire.Final, ids, ids),
    st.builds(wire.Cancel, ids, st.booleans()),
    st.builds(wire.Request, ids, st.text(max_size=5), st.binary(max_size=100), st.text(max_size=10), ids),
    st.just(wire.Heartbeat()),
)


@pytest.mark.parametrize("name", MESSAGES)
def test_the_bytes_of_a_message_never_change(name: str) -> None:
    assert wire.encode([MESSAGES[name]]).hex() == (GOLDEN / f"{name}.hex").read_text().strip()


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.hex")), ids=lambda path: path.stem)
def test_every_golden_frame_decodes_byte_by_byte(path: Path) -> None:
    decoder, decoded = wire.Decoder(), []
    for byte in bytes.fromhex(path.read_text()):
        decoded += decoder.feed(bytes([byte]))
    assert decoded == [MESSAGES[path.stem]]
    assert decoder.pending_bytes == 0


@given(st.lists(st.lists(messages, max_size=4), max_size=4), st.data())
def test_frames_survive_any_cut_of_the_bytes(frames: list[list[wire.Message]], data: st.DataObject) -> None:
    stream = b"".join(map(wire.encode, frames))
    decoder, decoded = wire.Decoder(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        decoded += decoder.feed(stream[:size])
        stream = stream[size:]
    assert decoded == [message for frame in frames for message in frame]
    assert decoder.pending_bytes == 0


@given(st.binary(max_size=200))
def test_garbage_raises_a_protocol_error_and_nothing_else(garbage: bytes) -> None:
    body = wire.HEADER.pack(wire.MAGIC, 0, len(garbage)) + garbage
    for data in (garbage, body):
        decoder = wire.Decoder()
        try:
            decoder.feed(data)
        except ProtocolError:
            continue
        assert decoder.pending_bytes <= len(data)


def test_a_hostile_length_is_refused_before_anything_is_stored() -> None:
    decoder = wire.Decoder()
    with pytest.raises(ProtocolError, match="the limit is"):
        decoder.feed(wire.HEADER.pack(wire.MAGIC, 0, 0xFFFFFFFF))
    assert decoder.pending_bytes == 0


def test_an_http_client_is_told_apart_at_once() -> None:
    with pytest.raises(ProtocolError, match="does not speak this protocol"):
        wire.Decoder().feed(b"GET / HTTP/1.1\r\n")


def test_deep_nesting_is_a_protocol_error() -> None:
    body = b"\x91" * 100_000 + b"\xc0"
    with pytest.raises(ProtocolError):
        wire.Decoder().feed(wire.HEADER.pack(wire.MAGIC, 0, len(body)) + body)


def test_fields_of_a_newer_peer_are_ignored() -> None:
    body = bytes([0x91, 0x94, 4, 7, 6, 99])  # a Final with one field more
    assert wire.Decoder().feed(wire.HEADER.pack(wire.MAGIC, 0, len(body)) + body) == [wire.Final(7, 6)]

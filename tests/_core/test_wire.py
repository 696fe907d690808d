"""Frames survive any cut, garbage is refused, and old bytes decode for ever."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo._core import wire
from dynamo._core.errors import ProtocolError, WireError
from dynamo._core.limits import CAPABILITIES_MAX, ERROR_DETAILS_READ_MAX, FRAME_PARTS_MAX, METADATA_ENTRIES_MAX

GOLDEN = Path(__file__).parents[1] / "golden" / "wire"

NONCE = bytes(range(32))

#: One of each message, with every field set, by the file in `golden/wire` that has its bytes. What an older release
#: has sent stays for ever, in the folder above that of the release which has changed it.
MESSAGES: dict[str, wire.Message] = {
    "hello": wire.Hello(1, 0, ["example"]),
    "1.1/hello": wire.Hello(1, 1, ["example"], NONCE),
    "1.1/proof": wire.Proof(NONCE),
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


#: What nobody writes any more.
OUTDATED = {"hello"}


@pytest.mark.parametrize("name", sorted(MESSAGES.keys() - OUTDATED))
def test_the_bytes_of_a_message_never_change(name: str) -> None:
    assert wire.encode([MESSAGES[name]]).hex() == (GOLDEN / f"{name}.hex").read_text().strip()


@pytest.mark.parametrize("path", sorted(GOLDEN.rglob("*.hex")), ids=lambda path: str(path.relative_to(GOLDEN)))
def test_every_golden_frame_decodes_byte_by_byte(path: Path) -> None:
    decoder, decoded = wire.Decoder(), []
    for byte in bytes.fromhex(path.read_text()):
        decoded += decoder.feed(bytes([byte]))
    assert decoded == [MESSAGES[str(path.relative_to(GOLDEN).with_suffix(""))]]
    assert decoder.pending_bytes == 0


def test_every_kind_of_message_has_golden_bytes() -> None:
    assert {type(message) for message in MESSAGES.values()} == set(get_args(wire.Message))
    assert {str(path.relative_to(GOLDEN).with_suffix("")) for path in GOLDEN.rglob("*.hex")} == set(MESSAGES)


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


def frame(*messages: object) -> bytes:
    """Return a frame of anything, as a newer release might send it."""
    body = msgspec.msgpack.encode(list(messages))
    return wire.HEADER.pack(wire.MAGIC, 0, len(body)) + body


def test_messages_of_a_newer_peer_are_left_out_and_counted() -> None:
    decoder = wire.Decoder()
    newer = frame([99], [4, 7, 6], [50, {"any": [1, 2]}, None], [8, "more"])
    assert decoder.feed(newer) == [wire.Final(7, 6), wire.Heartbeat()]
    assert decoder.num_ignored == 2


@pytest.mark.parametrize(
    "messages",
    [([],), (["text"],), ([None],), ([99], [4, "seven", 6]), ([99], [4]), ([99], 5), ({1: 2},), ([4.5, 7, 6],)],
    ids=repr,
)
def test_a_message_that_is_wrong_is_refused_beside_one_that_is_unknown(messages: tuple[object, ...]) -> None:
    with pytest.raises(ProtocolError, match="cannot be read") as caught:
        wire.Decoder().feed(frame(*messages))
    assert caught.value.details["reason"] == "unreadable"


@pytest.mark.parametrize("begin", [b"\x16\x03\x01\x02\x00\x01\x00\x01", b"\x15\x03\x03\x00\x02\x02\x46\x00"])
def test_a_peer_that_speaks_tls_is_told_apart(begin: bytes) -> None:
    with pytest.raises(ProtocolError, match="it speaks TLS"):
        wire.Decoder().feed(begin)


def hostile(name: str) -> tuple[bytes, str]:
    """A frame that would be many times as large in memory, and why it is refused."""
    few = {f"{number:x}": "" for number in range(ERROR_DETAILS_READ_MAX)}
    if name == "items":  # as many as a frame can have
        count = 19_000_000
        body = b"\x91\x94\x03\x01\x00\xdd" + count.to_bytes(4, "big") + b"\xc4\x00" * count
        return wire.HEADER.pack(wire.MAGIC, 0, len(body)) + body, "unreadable"
    message = {
        "items of many messages": [3, 1, 0, [b"xy"] * 1000],
        "capabilities of many": [1, 1, 1, [""] * CAPABILITIES_MAX],
        "metadata of many": [2, 1, "1", b"", "r", 1, None, {f"{n:x}": "" for n in range(METADATA_ENTRIES_MAX)}],
        "errors of many": [5, 1, 0, [["unknown", "", few]] * 64],
        "metadata": [2, 1, "1", b"", "r", 1, None, {f"{n:x}": "" for n in range(1_000_000)}],
        "layers": [5, 1, 0, [["unknown", ""]] * 1_000_000],
        "capabilities": [1, 1, 1, [""] * 2_000_000],
        "beside an unknown": [3, 1, 0, [b"xy"] * 1000],
    }[name]
    unknown: list[object] = [[99]] if name == "beside an unknown" else []
    is_many = "many" in name or unknown
    many = -(-(4 << 20) // len(msgspec.msgpack.encode(message))) if is_many else 1
    return frame(*unknown, *[message] * many), "too_many_parts" if is_many else "unreadable"


@pytest.mark.parametrize(
    "name",
    [
        "items", "items of many messages", "capabilities of many", "metadata of many", "errors of many", "metadata",
        "layers", "capabilities", "beside an unknown",
    ],
)  # fmt: skip
def test_too_much_in_the_messages_of_a_frame_is_refused_before_it_is_made(name: str) -> None:
    data, reason = hostile(name)
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError) as caught:
            wire.Decoder().feed(data)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.details["reason"] == reason
    assert peak_bytes < 16 << 20


def test_a_large_frame_with_all_that_it_may_hold_is_read() -> None:
    messages: list[wire.Message] = [wire.Items(1, 0, [b"x" * 100] * (FRAME_PARTS_MAX // 2))] * 2
    assert wire.Decoder().feed(wire.encode(messages)) == messages

"""Frames as nobody should send them: valid ones that are damaged, and damage that is well packed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import msgspec

from dynamo._core import wire
from dynamo._core.errors import WireError

Maker = Callable[[random.Random], bytes]

IDS = (0, 1, 2, 3, 7, -1, 2**31, 2**53, 2**63 - 1, -(2**63), 2**64 - 1)
SIZES = (0, 1, -5, 1024, 1 << 20, 2**62, -(2**62))
TIMES = (None, 0.0, -1.0, 0.5, 1e300, math.inf, -math.inf, math.nan)
TARGETS = ("1", "1", "1", "2", "", "x" * 300, "\u2603")


def message(rng: random.Random) -> wire.Message:
    """Return a message that can be packed, with fields that may make no sense."""
    id, size = rng.choice(IDS), rng.choice(SIZES)
    payload = rng.randbytes(rng.choice((0, 1, 10, 300)))
    return rng.choice(
        (
            lambda: wire.Hello(rng.choice((0, 1, 1, 1, 2)), rng.choice((0, 1, 9)), ["x"], payload),
            lambda: wire.Request(id, rng.choice(TARGETS), payload, "r", size, rng.choice(TIMES), {"k": "v"}),
            lambda: wire.Items(id, rng.choice((0, 1, -1, 2**40)), [payload] * rng.randrange(4)),
            lambda: wire.Final(id, rng.choice((0, 1, -1))),
            lambda: wire.Error(id, 0, [WireError("overloaded", "full", {"retry_after_s": 1.5})] * rng.randrange(3)),
            lambda: wire.Cancel(id, rng.random() < 0.5),
            lambda: wire.Credit(id, size),
            lambda: wire.Heartbeat(),
            lambda: wire.Proof(payload),
        )
    )()


def valid(rng: random.Random) -> bytes:
    return wire.encode([message(rng) for _ in range(rng.randrange(1, 5))])


def flipped(rng: random.Random) -> bytes:
    """A valid frame with some bytes changed."""
    data = bytearray(valid(rng))
    for _ in range(rng.randrange(1, 4)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def cut(rng: random.Random) -> bytes:
    """A frame whose length is right, and whose body lacks its end or is another's."""
    body = valid(rng)[wire.HEADER.size :]
    body = body[: rng.randrange(len(body))] + (body[rng.randrange(len(body)) :] if rng.random() < 0.5 else b"")
    return framed(body)


def truncated(rng: random.Random) -> bytes:
    """The beginning of a frame."""
    data = valid(rng)
    return data[: rng.randrange(1, len(data))]


def headed(rng: random.Random) -> bytes:
    """A header that promises anything."""
    magic = rng.choice((wire.MAGIC, wire.MAGIC, rng.randrange(1 << 16)))
    length = rng.choice((0, 5, 0xFFFFFFFF, 0x7FFFFFFF, 40 << 20, rng.randrange(1 << 32)))
    return wire.HEADER.pack(magic, rng.randrange(1 << 16), length) + rng.randbytes(rng.randrange(20))


def odd(rng: random.Random) -> bytes:
    """A frame of messages that have the wrong shape."""
    return framed(msgspec.msgpack.encode([_odd_message(rng) for _ in range(rng.randrange(1, 5))]))


def noise(rng: random.Random) -> bytes:
    return rng.randbytes(rng.randrange(1, 200))


def framed_noise(rng: random.Random) -> bytes:
    return framed(rng.randbytes(rng.randrange(200)))


def nested(rng: random.Random) -> bytes:
    """A frame that is deep, or says that it is wide."""
    depth = rng.choice((10, 500, 5000))
    begin = rng.choice((b"\x91", b"\x81\xa1k", b"\xdc\xff\xff", b"\xdd\x7f\xff\xff\xff", b"\xdf\x7f\xff\xff\xff"))
    return framed(b"\x91" + begin * depth)


MAKERS: tuple[Maker, ...] = (valid, flipped, cut, truncated, headed, odd, noise, framed_noise, nested)


def framed(body: bytes) -> bytes:
    return wire.HEADER.pack(wire.MAGIC, 0, len(body)) + body


def fuzzed(rng: random.Random) -> bytes:
    """Return what somebody hostile, broken or newer sends as one frame."""
    # Most of what is valid keeps the connection open, so that what follows it meets streams that are open.
    return rng.choices(MAKERS, weights=(12, 2, 2, 1, 1, 4, 1, 1, 1))[0](rng)


def _odd_message(rng: random.Random) -> object:
    number = rng.choice((1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 99, -1, "1", None, 2.0))
    fields: tuple[object, ...] = (
        None,
        0,
        -1,
        2**63,
        "text",
        b"bytes",
        [],
        [[]],
        {},
        {"a": {}},
        1.5,
        True,
        [b"x"],
        [None],
        ["\ud7ff"],
    )
    return rng.choice(([number, *rng.choices(fields, k=rng.randrange(8))], {"a": number}, number, [], [[number]]))

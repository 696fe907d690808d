"""Request traces: when requests came, how long they were, and what their prompts have in common.

A trace is a file of JSON objects, one a line. Mooncake's have these fields, and so have those that the frontend writes,
beside others:

    {"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47, 48, ...]}

The time is in milliseconds. Each id stands for a block of the prompt and all before it, so prompts agree as far as
their ids do; the last block may be short, and may have no id. A block has as many tokens as the line's `block_size`
says, and 512 if it says nothing, as Mooncake's have. Nobody knows the tokens: here they are made from the ids, so
that equal blocks have equal tokens.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from dynamo._core.errors import InvalidArgument
from dynamo._core.stability import beta

BLOCK_SIZE = 512
LINE_BYTES_MAX = 8 << 20
REQUESTS_MAX = 1_000_000
#: Tokens of a prompt that are believed.
INPUT_LENGTH_MAX = 4 << 20
#: From the first request to the last. What lasts longer has times in another unit: to replay it would not end.
DURATION_S_MAX = 31 * 86_400.0


class TraceLine(msgspec.Struct, frozen=True):
    """A line of a trace; other fields are ignored."""

    timestamp: float
    input_length: int
    output_length: int
    hash_ids: list[int] = []
    block_size: int | None = None


@beta(since="0.1")
@dataclass(frozen=True, slots=True)
class TracedRequest:
    """One request of a trace. Times are from the trace's first request.

    `input_length` and `output_length` are in tokens.
    """

    arrival_s: float
    input_length: int
    output_length: int
    #: Of its blocks, as far as they are known.
    hash_ids: Sequence[int]
    block_size: int = BLOCK_SIZE

    def token_ids(self, serial: int) -> list[int]:
        """Return tokens for its prompt: the same for the same blocks, and its own, by `serial`, where it has no ids."""
        parts = [_tokens(b"%d" % hash_id, self.block_size) for hash_id in self.hash_ids]
        missing = self.input_length - len(parts) * self.block_size
        if missing > 0:
            parts.append(_tokens(b"own %d" % serial, missing))
        return array("H", b"".join(parts)).tolist()[: self.input_length]


@beta(since="0.1")
def read_trace(paths: Iterable[Path], *, block_size: int = BLOCK_SIZE) -> list[TracedRequest]:
    """Read the files of a trace, in the order of arrival.

    Raises `InvalidArgument` for a line that is none, and for a trace of more than 31 days.
    """
    requests = [request for path in paths for request in _read(path, block_size)]
    if not requests:
        raise InvalidArgument("the trace is empty: it has no line with a request")
    requests.sort(key=lambda request: request.arrival_s)
    first_s, last_s = requests[0].arrival_s, requests[-1].arrival_s
    if last_s - first_s > DURATION_S_MAX:
        raise InvalidArgument(
            f"the trace lasts {(last_s - first_s) / 86_400:,.0f} days, from timestamp {first_s * 1000:g} to "
            f"{last_s * 1000:g}, and may last {DURATION_S_MAX / 86_400:.0f}: timestamps are in milliseconds"
        )
    return [replace(request, arrival_s=request.arrival_s - first_s) for request in requests]


@beta(since="0.1")
def write_trace(path: Path, requests: Iterable[TracedRequest]) -> None:
    """Write requests as Mooncake's traces have them."""
    with path.open("wb") as file:
        for request in requests:
            line = TraceLine(
                round(request.arrival_s * 1000),
                request.input_length,
                request.output_length,
                list(request.hash_ids),
                request.block_size,
            )
            file.write(msgspec.json.encode(line) + b"\n")


@beta(since="0.1", constructor=False)
@dataclass(frozen=True, slots=True)
class TraceStats:
    """What a trace is like. `input_length_mean` and `output_length_mean` are in tokens."""

    num_requests: int
    duration_s: float
    input_length_mean: float
    output_length_mean: float
    #: The part of all prompt tokens that is in blocks which came before: what a cache without limits would find.
    reusable: float


@beta(since="0.1")
def trace_stats(requests: Sequence[TracedRequest]) -> TraceStats:
    """Return what a trace is like."""
    num_requests = len(requests)
    num_tokens = sum(request.input_length for request in requests)
    return TraceStats(
        num_requests,
        requests[-1].arrival_s,
        num_tokens / num_requests,
        sum(request.output_length for request in requests) / num_requests,
        sum(map(_num_seen_tokens, requests, _seen_blocks(requests))) / num_tokens,
    )


def _seen_blocks(requests: Sequence[TracedRequest]) -> Iterator[int]:
    """Yield how many leading blocks of each request came before it."""
    seen: set[int] = set()
    for request in requests:
        num_seen = 0
        while num_seen < len(request.hash_ids) and request.hash_ids[num_seen] in seen:
            num_seen += 1
        seen.update(request.hash_ids)
        yield num_seen


def _num_seen_tokens(request: TracedRequest, num_blocks: int) -> int:
    return min(num_blocks * request.block_size, request.input_length)


def _tokens(seed: bytes, count: int) -> bytes:
    """Tokens of 16 bits each."""
    return hashlib.shake_128(seed).digest(2 * count)


def _read(path: Path, block_size: int) -> Iterator[TracedRequest]:
    try:
        with path.open("rb") as file:
            for number in range(1, REQUESTS_MAX + 1):
                line = file.readline(LINE_BYTES_MAX)
                if not line:
                    return
                if line.strip():
                    yield _parse(line, f"{path}:{number}", block_size)
    except OSError as error:
        raise InvalidArgument(f"the trace {path} cannot be read: {error.strerror or error}") from error
    raise InvalidArgument(f"the trace {path} has more than {REQUESTS_MAX} lines: replay a part of it")


def _parse(line: bytes, where: str, block_size: int) -> TracedRequest:
    try:
        read = msgspec.json.decode(line, type=TraceLine)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidArgument(f"{where} is no request of a trace: {error}") from error
    size = block_size if read.block_size is None else read.block_size
    if not (1 <= read.input_length <= INPUT_LENGTH_MAX and read.output_length >= 0 and size >= 1):
        raise InvalidArgument(
            f"{where}: input_length={read.input_length}, output_length={read.output_length} and block_size={size} "
            "are no lengths of a request"
        )
    num_blocks = len(read.hash_ids)
    if num_blocks not in (0, read.input_length // size, -(-read.input_length // size)):
        raise InvalidArgument(
            f"{where} has {num_blocks} hash_ids for {read.input_length} tokens, which are {read.input_length // size} "
            f"blocks of {size}: give the trace's own size of a block"
        )
    # What generates nothing still computes its prompt, and an engine gives a token for that.
    return TracedRequest(read.timestamp / 1000, read.input_length, max(1, read.output_length), read.hash_ids, size)

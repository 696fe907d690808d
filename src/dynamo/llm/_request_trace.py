"""Writes down which requests came: when, how long they were, what their prompts have in common, and not their words.

A line for each answer, as `dynamo replay` and everything that knows Mooncake's traces reads it. Blocks of a prompt are
hashes with a key that is drawn at the start and is nowhere written down: equal beginnings are seen to be equal, but
for tenants with different salts, and nobody can find out, by hashing what it could have been, what was asked.

What is true here: no request waits for the file or fails because of it. What the disk cannot take is left out, and
counted. There are never more than `FILES_MAX` files of about `FILE_BYTES_MAX` each.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from collections import deque
from pathlib import Path
from typing import BinaryIO

import msgspec

from dynamo._core.blocks import block_hashes, sequence_hashes
from dynamo._core.context import Context
from dynamo._core.errors import ConfigError
from dynamo.llm._choice import Choice
from dynamo.llm._messages import PreprocessedRequest

log = logging.getLogger(__name__)

#: Tokens that a hash stands for: of engines with smaller blocks, what is reused is known to this much.
TRACE_BLOCK_SIZE = 64
FILE_BYTES_MAX = 128 << 20
#: The one that is written, and older ones, whose names end with a number: the higher, the older.
FILES_MAX = 8
#: Answers that have ended and are not in the file yet.
PENDING_MAX = 1024
#: So many are written at a time, and so often trouble is told of.
BATCH_MAX = 64
TROUBLE_EVERY_S = 60.0


class TraceLine(msgspec.Struct, omit_defaults=True):
    """One answer, or what there is of it. Times are in milliseconds, `timestamp` since 1970."""

    timestamp: float
    input_length: int
    output_length: int
    hash_ids: list[int]
    block_size: int
    request_id: str
    model: str
    #: Until the first token came, and until the end.
    ttft_ms: float | None = None
    duration_ms: float | None = None
    #: How much of the prompt the worker had in its cache, if it has said so.
    cached_tokens: int | None = None
    #: Whether the answer has its end. If not, it failed, or nobody wanted it any more.
    is_complete: bool = False


class TracedAnswer:
    """An answer that began, in a `with` block: what it has come to by the end of that is written down."""

    __slots__ = ("_begin_s", "_choice", "_context", "_first_s", "_timestamp_ms", "_trace")

    def __init__(self, trace: RequestTrace, choice: Choice, context: Context, now_s: float) -> None:
        self._trace = trace
        self._choice = choice
        self._context = context
        self._timestamp_ms = time.time() * 1000
        self._begin_s = now_s
        self._first_s: float | None = None

    def note_answer(self) -> None:
        """Something of the answer has come. Another call changes nothing."""
        if self._first_s is None:
            self._first_s = self._trace.now()

    def __enter__(self) -> None:
        """It has begun."""

    def __exit__(self, *exc_info: object) -> None:
        choice = self._choice
        line = TraceLine(
            timestamp=round(self._timestamp_ms, 3),
            input_length=len(choice.request.token_ids),
            output_length=choice.num_tokens,
            hash_ids=[],
            block_size=TRACE_BLOCK_SIZE,
            request_id=self._context.request_id,
            model=choice.request.model,
            ttft_ms=None if self._first_s is None else _ms(self._first_s - self._begin_s),
            duration_ms=_ms(self._trace.now() - self._begin_s),
            cached_tokens=choice.cached_tokens,
            is_complete=choice.finished,
        )
        self._trace.add(line, choice.request)


class RequestTrace:
    """Appends to a file; use it with `async with`. Raises `ConfigError` if the file cannot be written."""

    def __init__(self, path: Path, *, file_bytes_max: int = FILE_BYTES_MAX, files_max: int = FILES_MAX) -> None:
        self._path = path
        self._file_bytes_max = file_bytes_max
        self._files_max = files_max
        self._key = os.urandom(16)
        # The mutable state: what is not written yet, who writes it, and what was left out since trouble was told of.
        self._pending: deque[tuple[TraceLine, PreprocessedRequest]] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._num_left_out = 0
        self._told_at_s: float | None = None
        #: Answers that were left out since the start.
        self.num_lost = 0

    async def __aenter__(self) -> RequestTrace:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._open().close()
        except OSError as error:
            raise ConfigError(
                f"the request trace {self._path} cannot be written: {error.strerror or error}", setting="request_trace"
            ) from error
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Write what is left."""
        while self._writing is not None:
            await asyncio.wait([self._writing])

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def begin(self, choice: Choice, context: Context) -> TracedAnswer:
        """An answer begins."""
        return TracedAnswer(self, choice, context, self.now())

    def add(self, line: TraceLine, request: PreprocessedRequest) -> None:
        """Have an answer to a request written, soon."""
        if len(self._pending) >= PENDING_MAX:
            self._leave_out(1, f"{PENDING_MAX} answers wait to be written")
            return
        self._pending.append((line, request))
        if self._writing is None:
            self._writing = asyncio.get_running_loop().create_task(self._write_all(), name="write the request trace")

    async def _write_all(self) -> None:
        try:
            while self._pending:
                batch = [self._pending.popleft() for _ in range(min(BATCH_MAX, len(self._pending)))]
                # A thread hashes and writes: neither takes time from the requests.
                try:
                    await asyncio.to_thread(self._write, batch)
                except OSError as error:
                    self._leave_out(len(batch), str(error))
        finally:
            self._writing = None

    def _write(self, batch: list[tuple[TraceLine, PreprocessedRequest]]) -> None:
        lines = []
        for line, request in batch:
            line.hash_ids = self._hash_ids(request)
            lines.append(msgspec.json.encode(line) + b"\n")
        if self._path.exists() and self._path.stat().st_size >= self._file_bytes_max:
            self._rotate()
        with self._open() as file:
            file.write(b"".join(lines))

    def _hash_ids(self, request: PreprocessedRequest) -> list[int]:
        tokens_hashes = block_hashes(
            request.token_ids, TRACE_BLOCK_SIZE, lora_name=request.lora_name, cache_namespace=request.cache_salt
        )
        return [_keyed(self._key, one) for one in sequence_hashes(tokens_hashes)]

    def _rotate(self) -> None:
        for number in range(self._files_max - 1, 0, -1):
            older = self._path if number == 1 else self._numbered(number - 1)
            if older.exists():
                older.replace(self._numbered(number))
        if self._files_max == 1:
            self._path.unlink()

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def _open(self) -> BinaryIO:
        return open(self._path, "ab", opener=_open_privately)

    def _leave_out(self, count: int, why: str) -> None:
        self.num_lost += count
        self._num_left_out += count
        now_s = self.now()
        if self._told_at_s is None or now_s - self._told_at_s >= TROUBLE_EVERY_S:
            log.warning("%d answers are not in the request trace %s: %s", self._num_left_out, self._path, why)
            self._told_at_s, self._num_left_out = now_s, 0


def _open_privately(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _keyed(key: bytes, value: int) -> int:
    """A number that says nothing of `value` to those without the key. 63 bits are a whole number everywhere."""
    digest = hashlib.blake2b(value.to_bytes(8, "little"), digest_size=8, key=key).digest()
    return int.from_bytes(digest, "little") >> 1


def _ms(time_s: float) -> float:
    return round(time_s * 1000, 3)

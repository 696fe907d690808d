"""The requests of the recover benchmark, and how much of their prompts the engines had in their caches.

Open loop: each request is sent at its time, and sent again until it is answered, as clients do whose server is away.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from benchmarks.chat_request import MODEL_NAME
from benchmarks.children import BenchmarkFailed

#: Prompts begin in so many ways, with so many blocks each, and end with some tokens of their own.
NUM_BEGINNINGS = 48
NUM_BLOCKS = 64
NUM_OWN_TOKENS = 40
MAX_TOKENS = 4
REQUESTS_PER_S = 40.0
RETRY_S = 0.05
ANSWER_S = 30.0
#: The hit rate is that of so long a time, if there were enough answers in it.
WINDOW_S = 1.0
ANSWERS_MIN = 10
#: Where the tiny model has words.
FIRST_TOKEN_ID, TOKEN_ID_END = 100, 1900


class _Answer(NamedTuple):
    """When it was asked for and when it came, the tokens of its prompt, and those of them that were cached."""

    asked_s: float
    at_s: float
    prompt_tokens: int
    cached_tokens: int


class Load:
    """Sends requests to a port while it runs."""

    def __init__(self, port: int, block_size: int, rng: random.Random) -> None:
        self._port = port
        self._rng = rng
        self._beginnings = [self._tokens(NUM_BLOCKS * block_size) for _ in range(NUM_BEGINNINGS)]
        self._answers: list[_Answer] = []

    async def wait_until_served(self, num_workers: int, timeout_s: float) -> None:
        """Return once every worker can be asked. Raises `BenchmarkFailed` if that takes too long."""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    if await self._num_workers() == num_workers:
                        return
                    await asyncio.sleep(RETRY_S)
        except TimeoutError as error:
            raise BenchmarkFailed(f"the frontend does not know {num_workers} workers after {timeout_s:g} s") from error

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Send requests until the end of the block."""
        sending = asyncio.create_task(self._send_all())
        try:
            yield
            if sending.done():
                sending.result()
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    def hit_rate(self, begin_s: float, end_s: float) -> float:
        """The share of the prompts' tokens that was cached, in answers of this time; -1 if they were too few."""
        answers = [one for one in self._answers if begin_s <= one.asked_s and one.at_s < end_s]
        if len(answers) < ANSWERS_MIN:
            return -1.0
        return sum(one.cached_tokens for one in answers) / sum(one.prompt_tokens for one in answers)

    def first_after(self, at_s: float) -> float | None:
        """How long it took to the first answer to what was asked then."""
        return next((one.at_s - at_s for one in self._answers if one.asked_s > at_s), None)

    def recovered_after(self, at_s: float, wanted: float) -> float | None:
        """How long it took to the end of the first `WINDOW_S` with this hit rate."""
        ends = [one.at_s for one in self._answers if one.asked_s > at_s]
        return next(
            (end_s - at_s for end_s in ends if self.hit_rate(max(at_s, end_s - WINDOW_S), end_s) >= wanted), None
        )

    def told(self, at_s: float, num_s: int) -> str:
        """The hit rate, second by second."""
        rates = [self.hit_rate(at_s + second, at_s + second + 1) for second in range(num_s)]
        return " ".join("-" if rate < 0 else f"{rate:.0%}" for rate in rates)

    async def _send_all(self) -> None:
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        async with asyncio.TaskGroup() as sending:
            while True:
                due_s += self._rng.expovariate(REQUESTS_PER_S)
                await asyncio.sleep(due_s - loop.time())
                prompt = self._rng.choice(self._beginnings) + self._tokens(NUM_OWN_TOKENS)
                sending.create_task(self._ask(prompt))

    async def _ask(self, prompt: list[int]) -> None:
        body = {"model": MODEL_NAME, "prompt": prompt, "max_tokens": MAX_TOKENS}
        while True:
            asked_s = time.monotonic()
            try:
                async with asyncio.timeout(ANSWER_S):
                    status, answer = await _call(self._port, "POST", "/v1/completions", json.dumps(body).encode())
            except (OSError, EOFError, TimeoutError):
                status, answer = 0, b""
            if status == 200:
                usage = json.loads(answer)["usage"]
                cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
                self._answers.append(_Answer(asked_s, time.monotonic(), usage["prompt_tokens"], cached))
                return
            if 400 <= status < 500:
                raise BenchmarkFailed(f"a request was refused: {answer[:500]!r}")
            await asyncio.sleep(RETRY_S)

    async def _num_workers(self) -> int:
        try:
            status, answer = await _call(self._port, "GET", "/health", b"")
        except (OSError, EOFError):
            return 0
        return len(json.loads(answer)["instances"].get(MODEL_NAME, [])) if status == 200 else 0

    def _tokens(self, count: int) -> list[int]:
        return [self._rng.randrange(FIRST_TOKEN_ID, TOKEN_ID_END) for _ in range(count)]


async def _call(port: int, method: str, path: str, body: bytes) -> tuple[int, bytes]:
    """Send one request over a connection of its own; return the status and the body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = await reader.read()
    finally:
        writer.close()
    top, _, rest = answer.partition(b"\r\n\r\n")
    if not top:
        raise EOFError("the server closed the connection")
    return int(top.split(None, 2)[1]), rest

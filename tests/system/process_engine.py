"""The oracle in a process of its own, as engines with a model have one, and its worker as a service of a graph.

Every token takes memory, as a KV cache does, until its request is done. A process that gets no more of it dies
and says nothing to the worker, which only sees that it is gone: its requests fail as those of an engine that
ended, so that they go on elsewhere, and the worker ends.

`dynamo serve tests.system.process_engine:Frontend` serves two such workers behind a frontend.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec
from tests.oracle import MAX_CONTEXT_LENGTH, Sequel

from dynamo._core.context import Context
from dynamo._core.errors import EngineShutdown
from dynamo._engines.service import EngineService
from dynamo.frontend import Frontend as HttpFrontend
from dynamo.llm import EngineOutput, PreprocessedRequest
from dynamo.llm._model_card import MIGRATION_LIMIT
from dynamo.llm._worker_options import REFUSE
from dynamo.runtime import Endpoint
from dynamo.sdk import depends, service

TOKEN_DELAY_S = 0.02
#: What a token takes in the engine: enough to be asked of the kernel for each of them.
BYTES_PER_TOKEN = 1 << 20
#: Tokens that wait for the reader of one request.
WAITING_MAX = 4096


class _Ask(msgspec.Struct):
    """A line to the engine's process: give so many tokens after these."""

    id: int
    token_ids: list[int]
    max_tokens: int


class _Token(msgspec.Struct):
    """A line from it."""

    id: int
    token_id: int


class ProcessEngine:
    """Made by `start`; ended by `close`, or by the death of its process."""

    def __init__(self, process: Process) -> None:
        self.max_context_length = MAX_CONTEXT_LENGTH
        self.process = process
        # The requests that run, and the tokens that came for each.
        self._running: dict[int, asyncio.Queue[int | None]] = {}
        self._num_requests = 0
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(cls) -> ProcessEngine:
        return cls(await asyncio.create_subprocess_exec(sys.executable, "-m", __name__, stdin=PIPE, stdout=PIPE))

    async def generate(self, request: PreprocessedRequest, context: Context) -> AsyncGenerator[EngineOutput, None]:
        """Yield one token per output, until there are `max_tokens`."""
        assert request.stop_conditions.max_tokens is not None
        self._num_requests += 1
        ask = _Ask(self._num_requests, request.token_ids, request.stop_conditions.max_tokens)
        tokens = self._running[ask.id] = asyncio.Queue(WAITING_MAX)
        try:
            self._tell(ask)
            for index in range(ask.max_tokens):
                token_id = None if self._reader.done() else await tokens.get()
                if token_id is None:
                    raise self._death()
                is_last = index + 1 == ask.max_tokens
                yield EngineOutput(token_ids=[token_id], finish_reason="length" if is_last else None)
        finally:
            del self._running[ask.id]

    async def ended(self) -> EngineShutdown:
        """Wait until the process is gone, and return how it went."""
        await asyncio.wait([self._reader])
        await self.process.wait()
        return self._death()

    async def close(self) -> None:
        """End the process. A second call changes nothing."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        await self._reader

    def _tell(self, ask: _Ask) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(msgspec.json.encode(ask) + b"\n")

    def _death(self) -> EngineShutdown:
        return EngineShutdown(f"the engine's process is gone, with status {self.process.returncode}")

    async def _read(self) -> None:
        """Hand out the tokens until the process is gone, which everybody who waits is then told."""
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            token = msgspec.json.decode(line, type=_Token)
            if token.id in self._running:
                self._running[token.id].put_nowait(token.token_id)
        for tokens in self._running.values():
            tokens.put_nowait(None)


@service(dynamo={"namespace": "system"}, workers=2)
class Worker(EngineService):
    """A worker whose engine is another process."""

    _needs_weights = False

    def __init__(self, model_path: str, model_name: str) -> None:
        super().__init__(model_path, model_name, None, MIGRATION_LIMIT, (), None, REFUSE)

    async def _make_engine(self, path: Path, endpoint: Endpoint, name: str) -> ProcessEngine:
        return await ProcessEngine.start()


@service(dynamo={"namespace": "system"})
class Frontend(HttpFrontend):
    """The OpenAI API in front of the workers."""

    worker = depends(Worker)


# What runs in the process.


async def _serve() -> None:
    """Answer each line of the standard input, all of them at the same time, until it ends."""
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with asyncio.TaskGroup() as answering:
        while line := await lines.readline():
            answering.create_task(_answer(msgspec.json.decode(line, type=_Ask)))


async def _answer(ask: _Ask) -> None:
    sequel = Sequel(ask.token_ids)
    cache = []
    for _ in range(ask.max_tokens):
        await asyncio.sleep(TOKEN_DELAY_S)
        cache.append(bytearray(BYTES_PER_TOKEN))
        sys.stdout.buffer.write(msgspec.json.encode(_Token(ask.id, sequel.next())) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    asyncio.run(_serve())

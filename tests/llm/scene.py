"""A worker with an engine that does as it is told, for tests of what stands before it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from dynamo._core.context import Context
from dynamo._core.discovery.memory import MemoryDiscovery
from dynamo._core.request_plane.inproc import InprocPlane
from dynamo.llm import EngineOutput, ModelConfig, ModelType, PreprocessedRequest, register_llm
from dynamo.llm._kv_router.config import RouterConfig
from dynamo.llm._model_card import KV_CACHE_BLOCK_SIZE, ModelCard
from dynamo.llm._model_config import OnConflict
from dynamo.llm._models import ModelManager
from dynamo.llm._tokenizer import Tokenizer
from dynamo.runtime import DistributedRuntime

DEADLINE_S = 60.0
BOTH = ModelType.Chat | ModelType.Completions
MODEL = "tiny"

Script = Callable[[PreprocessedRequest], AsyncIterator[EngineOutput]]


class ScriptedEngine:
    """Plays a script for each request, and knows what became of it."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[PreprocessedRequest] = []
        self.started = asyncio.Event()
        self.closed = asyncio.Event()

    async def generate(self, request: PreprocessedRequest, context: Context) -> AsyncGenerator[EngineOutput, None]:
        self.requests.append(request)
        self.started.set()
        try:
            async for output in self.script(request):
                yield output
        finally:
            self.closed.set()


def says(*outputs: EngineOutput) -> Script:
    """A script of fixed outputs."""

    async def script(_: PreprocessedRequest) -> AsyncIterator[EngineOutput]:
        for output in outputs:
            yield output

    return script


def says_text(tokenizer: Tokenizer, text: str, *, log_probs: bool = False) -> Script:
    """A script that says a text, one token per output, and stops."""
    token_ids = tokenizer.encode_now(text, add_special_tokens=False)

    async def script(_: PreprocessedRequest) -> AsyncIterator[EngineOutput]:
        for position, token_id in enumerate(token_ids):
            yield EngineOutput(
                token_ids=[token_id],
                finish_reason="stop" if position == len(token_ids) - 1 else None,
                log_probs=[-0.5 * position] if log_probs else None,
            )

    return script


async def forever(_: PreprocessedRequest) -> AsyncIterator[EngineOutput]:
    """A script that says the same token until it is closed."""
    while True:
        await asyncio.sleep(0.001)
        yield EngineOutput(token_ids=[100])


async def never(_: PreprocessedRequest) -> AsyncIterator[EngineOutput]:
    """A script that does not get to its first token, like a long prefill."""
    await asyncio.Event().wait()
    yield EngineOutput()


async def load_tokenizer(model: Path) -> Tokenizer:
    return await asyncio.to_thread(Tokenizer.for_card, ModelCard.from_local_path(model))


class World:
    """One host without sockets: its discovery, its request plane, and the runtimes that joined."""

    def __init__(self) -> None:
        self.discovery = MemoryDiscovery()
        self.plane = InprocPlane()

    def runtime(self) -> DistributedRuntime:
        return DistributedRuntime(discovery=self.discovery, request_plane=self.plane)

    @asynccontextmanager
    async def worker(
        self,
        engine: ScriptedEngine,
        model_path: Path,
        *,
        model: str = MODEL,
        model_type: ModelType = BOTH,
        context_length: int | None = None,
        kv_cache_block_size: int = KV_CACHE_BLOCK_SIZE,
        endpoint: str = "test.worker.generate",
        on_conflict: OnConflict = "refuse",
        capabilities: list[str] | None = None,
        router_config: RouterConfig | None = None,
    ) -> AsyncIterator[DistributedRuntime]:
        """A worker that is registered; it leaves at the end without draining."""
        config = ModelConfig(
            path=model_path, name=model, model_type=model_type, context_length=context_length,
            kv_cache_block_size=kv_cache_block_size, on_conflict=on_conflict, capabilities=capabilities,
            router_config=router_config,
        )  # fmt: skip
        async with self.runtime() as runtime:
            at = runtime.endpoint(endpoint)
            served = await at.serve(engine.generate, request_type=PreprocessedRequest, drain_s=0.0)
            await register_llm(at, config)
            yield runtime
            await served.close()

    @asynccontextmanager
    async def models(self) -> AsyncIterator[ModelManager]:
        """A frontend's view of the models, which waits for the first."""
        async with self.runtime() as runtime, ModelManager(runtime) as models:
            async with asyncio.timeout(DEADLINE_S):
                await models.wait_ready()
            yield models


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until something is true of objects that have no event for it."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


def decoded(chunk: bytes) -> dict[str, object]:
    return msgspec.json.decode(chunk, type=dict[str, object])

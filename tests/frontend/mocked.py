"""A frontend before simulated engines which keep a prefix cache and tell of it, on one host without sockets between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
from tests.llm.kv.scene import Host

from dynamo._core.context import Context
from dynamo.frontend._config import FrontendConfig
from dynamo.frontend._serving import FrontendServer
from dynamo.llm import EngineOutput, PreprocessedRequest
from dynamo.llm._served_model import ServedModel
from dynamo.mocker import MockerConfig
from dynamo.mocker._starting import kv_publishers, start_mocker

DEADLINE_S = 60.0
MODEL = "mock"
BLOCK_SIZE = 16
CONTEXT_LENGTH = 2048


class Mocked:
    """The frontend's URL, and the instances behind it."""

    def __init__(self, url: str, instance_ids: list[int]) -> None:
        self.url = url
        self.instance_ids = instance_ids
        self.http = httpx.AsyncClient(base_url=url, timeout=DEADLINE_S)

    async def ask(
        self, prompt: list[int], *, max_tokens: int = 2, headers: dict[str, str] | None = None, **fields: object
    ) -> httpx.Response:
        """Send a completion."""
        body = {"model": MODEL, "prompt": prompt, "max_tokens": max_tokens, **fields}
        return await self.http.post("/v1/completions", json=body, headers=headers)

    async def until_cached(self, prompt: list[int], num_tokens: int) -> None:
        """Ask until the router expects that so many tokens of a prompt are cached where it goes."""
        explain = {"x-dynamo-explain": "1"}
        async with asyncio.timeout(DEADLINE_S):
            while decision_in(await self.ask(prompt, headers=explain))["predicted_cached_tokens"] != num_tokens:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


def decision_in(answer: httpx.Response) -> dict[str, object]:
    """The one decision that an answer tells of."""
    (decision,) = answer.json()["nvext"]["explain"]["decisions"]
    assert isinstance(decision, dict)
    return decision


@asynccontextmanager
async def mocked(
    model: Path, *, workers: int = 2, kv_events: bool = True, prefix_caching: bool = True, **settings: object
) -> AsyncIterator[Mocked]:
    """A frontend with these settings, which knows all of its workers."""
    async with AsyncExitStack() as stack:
        host = Host()
        instance_ids = [await _worker(stack, host, model, kv_events, prefix_caching) for _ in range(workers)]
        runtime = await stack.enter_async_context(host.process())
        server = FrontendServer(FrontendConfig(http_port=0, drain_s=0.0, **settings))  # type: ignore[arg-type]
        url = await server.start(runtime)
        stack.push_async_callback(server.stop)
        scene = Mocked(url, sorted(instance_ids))
        await stack.enter_async_context(scene.http)
        async with asyncio.timeout(DEADLINE_S):
            while len((await scene.http.get("/health")).json()["instances"].get(MODEL, [])) < workers:  # noqa: ASYNC110
                await asyncio.sleep(0)
        yield scene


async def _worker(stack: AsyncExitStack, host: Host, model: Path, kv_events: bool, prefix_caching: bool) -> int:
    runtime = await stack.enter_async_context(host.process())
    endpoint = runtime.endpoint("test.worker.generate")
    config = MockerConfig(
        block_size=BLOCK_SIZE,
        num_gpu_blocks=1024,
        max_context_length=CONTEXT_LENGTH,
        speedup_ratio=0,
        enable_prefix_caching=prefix_caching,
    )
    sinks = kv_publishers(endpoint, config) if kv_events else []
    engine = await start_mocker(model, config, context_length=CONTEXT_LENGTH, kv_event_sinks=sinks)

    async def generate(request: PreprocessedRequest, context: Context) -> AsyncIterator[EngineOutput]:
        async for output in engine.generate(request, context):
            yield output

    served = await endpoint.serve(generate, request_type=PreprocessedRequest, drain_s=0.0)
    stack.push_async_callback(served.close)
    registered = await ServedModel.start(engine, endpoint, model, MODEL)
    stack.push_async_callback(registered.close)
    return served.instance_id

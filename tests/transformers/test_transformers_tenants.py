"""Tenants with salts of their own before a real model: what the KV router predicts is what the engine reports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from tests.frontend.mocked import DEADLINE_S, MODEL, Mocked, decision_in
from tests.llm.kv.scene import Host
from tests.transformers.models import loaded

from dynamo._core.context import Context
from dynamo.frontend._config import FrontendConfig
from dynamo.frontend._serving import FrontendServer
from dynamo.llm import EngineOutput, KvPublisher, PreprocessedRequest
from dynamo.llm._served_model import ServedModel
from dynamo.transformers import TransformersEngine

BLOCK_SIZE = 16
PROMPT = list(range(100, 100 + 4 * BLOCK_SIZE + 3))
CACHED = 4 * BLOCK_SIZE


@asynccontextmanager
async def served(model: Path) -> AsyncIterator[Mocked]:
    """A frontend that routes by KV cache, before one engine that tells of its own."""
    async with AsyncExitStack() as stack:
        host = Host()
        runtime = await stack.enter_async_context(host.process())
        endpoint = runtime.endpoint("test.worker.generate")
        sink = KvPublisher(endpoint, kv_block_size=BLOCK_SIZE)
        engine = TransformersEngine(loaded(model), kv_cache_block_size=BLOCK_SIZE, kv_event_sink=sink)

        async def generate(request: PreprocessedRequest, context: Context) -> AsyncIterator[EngineOutput]:
            async for output in engine.generate(request, context):
                yield output

        worker = await endpoint.serve(generate, request_type=PreprocessedRequest, drain_s=0.0)
        stack.push_async_callback(worker.close)
        registered = await ServedModel.start(engine, endpoint, model, MODEL)
        stack.push_async_callback(registered.close)
        runtime = await stack.enter_async_context(host.process())
        server = FrontendServer(FrontendConfig(http_port=0, drain_s=0.0, router_mode="kv"))
        scene = Mocked(await server.start(runtime), [worker.instance_id])
        stack.push_async_callback(server.stop)
        await stack.enter_async_context(scene.http)
        async with asyncio.timeout(DEADLINE_S):
            while MODEL not in (await scene.http.get("/health")).json()["instances"]:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.01)
        yield scene


async def asked(scene: Mocked, **fields: Any) -> tuple[object, int]:
    """How many cached tokens were predicted, and how many were reported."""
    answer = await scene.ask(PROMPT, headers={"x-dynamo-explain": "1"}, **fields)
    reported = answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
    return decision_in(answer)["predicted_cached_tokens"], reported


async def test_a_prompt_with_another_salt_is_another_prompt_to_the_router_and_to_the_engine(tiny_model: Path) -> None:
    async with served(tiny_model) as scene:
        salts: tuple[dict[str, Any], ...] = ({}, {"cache_salt": "a"}, {"nvext": {"cache_salt": "b"}})
        for salt in salts:
            assert await asked(scene, **salt) == (0, 0)
            async with asyncio.timeout(DEADLINE_S):
                while (await asked(scene, **salt))[0] != CACHED:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
        for salt in salts:
            assert await asked(scene, **salt) == (CACHED, CACHED)

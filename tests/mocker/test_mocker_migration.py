"""Answers of simulated engines through a frontend's pipeline, with the worker lost on the way."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Any

import msgspec
from tests.llm.scene import BOTH, DEADLINE_S, MODEL, World, until

from dynamo._core.context import Context
from dynamo.llm import ModelInput, PreprocessedRequest, register_llm
from dynamo.llm._openai import CompletionRequest, parse
from dynamo.mocker import MockerConfig, MockerEngine, PolynomialTiming
from dynamo.mocker._answer import vocabulary_of

#: A step takes a millisecond.
TIMING = PolynomialTiming(base_s=0.001, prefill_token_s=0, prefill_pair_s=0, decode_request_s=0, decode_kv_token_s=0)


async def start_worker(stack: AsyncExitStack, world: World, model: Path) -> MockerEngine:
    config = MockerConfig(block_size=4, max_context_length=1000)
    engine = MockerEngine(config, timing=TIMING, vocabulary=vocabulary_of(2048))
    runtime = await stack.enter_async_context(world.runtime())
    stack.push_async_callback(engine.close)
    endpoint = runtime.endpoint("test.worker.generate")
    await endpoint.serve(engine.generate, request_type=PreprocessedRequest, drain_s=0.0)
    await register_llm(ModelInput.Tokens, BOTH, endpoint, str(model), MODEL, context_length=1000, kv_cache_block_size=4)
    return engine


async def test_an_answer_whose_worker_is_lost_is_the_one_that_nobody_disturbed(tiny_model: Path) -> None:
    body: dict[str, Any] = {"model": MODEL, "prompt": "What is the time in Delphi?", "max_tokens": 120}
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    request = parse(CompletionRequest, body)
    world = World()
    async with asyncio.timeout(DEADLINE_S), AsyncExitStack() as stack:
        engines = [await start_worker(stack, world, tiny_model) for _ in range(2)]
        models = await stack.enter_async_context(world.models())
        pipeline = models.pipeline(MODEL)

        async def answer(*, lose_after: int | None) -> tuple[str, dict[str, Any]]:
            chunks: list[dict[str, Any]] = []
            async with aclosing(pipeline.stream(request, Context())) as batches:
                async for batch in batches:
                    chunks += [msgspec.json.decode(chunk) for chunk in batch]
                    if lose_after is not None and len(chunks) >= lose_after:
                        lose_after = None
                        await next(engine for engine in engines if engine.num_requests_running).close()
            text = "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])
            return text, chunks[-1]["usage"]

        whole, usage = await answer(lose_after=None)
        await until(lambda: not any(engine.num_requests_running for engine in engines))
        # The next request goes to the other worker.
        again, usage_again = await answer(lose_after=20)
    assert again == whole
    assert (usage["completion_tokens"], usage_again["completion_tokens"]) == (120, 120)
    assert usage["prompt_tokens_details"] == {"cached_tokens": 0}

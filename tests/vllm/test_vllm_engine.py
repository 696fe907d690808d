"""Our side of the vLLM engine, without vLLM."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace

import pytest
from tests.vllm.fake_core import FACTS, FakeCore

from dynamo._core.context import Context
from dynamo._core.errors import EngineShutdown, InvalidArgument, Overloaded
from dynamo.llm import EngineOutput, PreprocessedRequest, SamplingOptions, StopConditions
from dynamo.llm._worker import CachingEngine, kv_cache_facts
from dynamo.vllm import VllmEngine
from dynamo.vllm._core import KvEventSource
from dynamo.vllm._engine import WAITING_PER_SEQ_MAX

DEADLINE_S = 60.0


@asynccontextmanager
async def engine_of(core: FakeCore, belongings: AsyncExitStack | None = None) -> AsyncIterator[VllmEngine]:
    engine = VllmEngine(core, belongings)
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield engine
    finally:
        await engine.close()


def request(max_tokens: int = 3) -> PreprocessedRequest:
    return PreprocessedRequest("m", [5, 6, 7], StopConditions(max_tokens=max_tokens), SamplingOptions(seed=1))


async def read(engine: VllmEngine, context: Context | None = None, max_tokens: int = 3) -> list[EngineOutput]:
    return [output async for output in engine.generate(request(max_tokens), context or Context())]


async def test_a_request_goes_to_vllm_with_its_rank_and_the_models_defaults() -> None:
    core = FakeCore()
    async with engine_of(core) as engine:
        asked = request()
        asked.dp_rank = 1
        outputs = [output async for output in engine.generate(asked, Context("one"))]
    assert [output.token_ids for output in outputs] == [[5], [6], [7]]
    [(token_ids, sampling, request_id, dp_rank)] = core.asked
    assert (token_ids, request_id, dp_rank) == ([5, 6, 7], "one-0", 1)
    assert (sampling["seed"], sampling["temperature"], sampling["max_tokens"]) == (1, 0.5, 3)


async def test_vllm_is_told_the_salt_and_no_adapter_is_made_up() -> None:
    core = FakeCore()
    async with engine_of(core) as engine:
        for salt in ("tenant", None):
            asked = request()
            asked.cache_salt = salt
            async for _ in engine.generate(asked, Context()):
                pass
        asked.lora_name = "mine"
        with pytest.raises(InvalidArgument, match="this worker has no LoRA adapters, and so not 'mine'"):
            await anext(engine.generate(asked, Context()))
    assert core.cache_salts == ["tenant", None]


async def test_two_requests_of_one_context_are_two_to_vllm() -> None:
    core, context = FakeCore(), Context("one")
    async with engine_of(core) as engine:
        await asyncio.gather(read(engine, context), read(engine, context))
    assert {asked[2] for asked in core.asked} == {"one-0", "one-1"}


async def test_a_stopped_context_ends_the_request_in_vllm_and_the_answer_as_cancelled() -> None:
    core, context = FakeCore(), Context()
    async with engine_of(core) as engine:
        outputs = []
        async with aclosing(engine.generate(request(10_000), context)) as stream:
            async for output in stream:
                outputs.append(output)
                context.stop_generating()
        assert outputs[-1].finish_reason == "cancelled"
        assert outputs[-1].completion_usage is not None
        assert len(outputs) < 10
        assert core.running == {}
        assert engine.num_requests == 0


async def test_a_request_whose_context_is_stopped_already_never_reaches_vllm() -> None:
    core, context = FakeCore(), Context()
    context.kill()
    async with engine_of(core) as engine:
        assert [output.finish_reason for output in await read(engine, context)] == ["cancelled"]
    assert core.asked == []


async def test_closing_the_iterator_ends_the_request_in_vllm() -> None:
    core = FakeCore()
    async with engine_of(core) as engine:
        async with aclosing(engine.generate(request(10_000), Context())) as stream:
            await anext(stream)
            assert len(core.running) == 1
        assert core.running == {}
        assert engine.num_requests == 0


async def test_more_requests_than_may_wait_are_refused_and_the_others_are_served() -> None:
    core = FakeCore()
    limit = FACTS.max_num_seqs * (1 + WAITING_PER_SEQ_MAX)
    async with engine_of(core) as engine:
        results = await asyncio.gather(*(read(engine) for _ in range(limit + 5)), return_exceptions=True)
    assert sum(isinstance(result, Overloaded) for result in results) == 5
    assert sum(isinstance(result, list) for result in results) == limit


async def test_the_death_of_vllm_ends_the_engine_and_its_requests_so_that_they_go_on_elsewhere() -> None:
    core = FakeCore()
    async with engine_of(core) as engine:
        async with aclosing(engine.generate(request(10_000), Context())) as stream:
            await anext(stream)
            core.die()
            with pytest.raises(EngineShutdown):
                [output async for output in stream]
        assert "gone" in str(await engine.ended())
        with pytest.raises(EngineShutdown, match="gone"):
            await read(engine)


async def test_closing_the_engine_fails_what_runs_and_closes_what_it_has_once() -> None:
    core, belongings = FakeCore(), AsyncExitStack()
    closed: list[int] = []
    belongings.callback(closed.append, 1)
    async with engine_of(core, belongings) as engine:
        async with aclosing(engine.generate(request(10_000), Context())) as stream:
            await anext(stream)
            await engine.close()
            with pytest.raises(EngineShutdown, match="closed"):
                [output async for output in stream]
        await engine.close()
    assert closed == [1]
    assert "closed" in str(await engine.ended())


async def test_the_card_says_what_vllm_has_made_of_its_settings() -> None:
    async with engine_of(FakeCore(replace(FACTS, data_parallel_size=2))) as engine:
        assert isinstance(engine, CachingEngine)
        assert engine.max_context_length == 512
        assert kv_cache_facts(engine) == (
            32,
            {
                "total_kv_blocks": 64,
                "max_num_seqs": 2,
                "max_num_batched_tokens": 512,
                "data_parallel_size": 2,
                "kv_events": False,
            },
        )


async def test_the_card_says_that_routers_are_told_of_blocks() -> None:
    facts = replace(FACTS, kv_events=(KvEventSource(0, "ipc:///x"),))
    async with engine_of(FakeCore(facts)) as engine:
        assert engine.runtime_config["kv_events"] is True

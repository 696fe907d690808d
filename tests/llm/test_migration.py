"""What becomes of an answer when the worker that gives it is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import msgspec
import pytest
from tests.llm.mortal import (
    COUNT,
    ENDPOINT,
    NEW,
    ONGOING,
    PROMPT,
    Cluster,
    ask,
    cluster_of,
    completion,
    losing_all,
    undisturbed,
    within,
)
from tests.llm.scene import MODEL, ScriptedEngine
from tests.oracle import OracleEngine, tokens

from dynamo._core import errors
from dynamo._core.context import Context
from dynamo._core.discovery.memory import MemoryDiscovery
from dynamo._core.errors import (
    HandlerError,
    Overloaded,
)
from dynamo.llm import EngineOutput, ModelInput, ModelType, PreprocessedRequest, register_llm
from dynamo.llm._migration import is_death, is_migratable
from dynamo.llm._models import ModelManager
from dynamo.runtime import DistributedRuntime


async def test_an_answer_is_the_same_wherever_its_worker_dies(tiny_model: Path) -> None:
    expected = await undisturbed(tiny_model)
    assert expected.token_logprobs == [-token / 64 for token in tokens(PROMPT, COUNT)]
    assert expected.usage == {"prompt_tokens": 4, "completion_tokens": COUNT, "total_tokens": 4 + COUNT}
    for at in range(COUNT):
        (mortal,), clusters = losing_all(1, at)
        async with cluster_of(tiny_model, [mortal, OracleEngine()]) as (cluster, models):
            clusters.append(cluster)
            for _ in range(2):  # in turn: one of the two begins with the mortal one
                assert await ask(models) == expected, at
            assert cluster.num_lost == 1
            assert models.migrations.migrations[ONGOING if at else NEW] == 1


async def test_what_goes_to_the_next_worker_is_the_prompt_and_what_there_is_with_what_is_left_of_the_budgets(
    tiny_model: Path,
) -> None:
    (mortal,), clusters = losing_all(1, 5)
    other = OracleEngine()
    async with cluster_of(tiny_model, [mortal, other]) as (cluster, models):
        clusters.append(cluster)
        for _ in range(2):
            await ask(models, completion(stream=True, min_tokens=7, seed=3, stream_options={"include_usage": True}))
    (moved,) = (request for request in other.requests if request.num_resumed_tokens)
    (began,) = mortal.requests
    assert moved.token_ids == PROMPT + tokens(PROMPT, 5, began.sampling_options)
    assert moved.num_resumed_tokens == 5
    assert (moved.stop_conditions.max_tokens, moved.stop_conditions.min_tokens) == (COUNT - 5, 2)
    assert moved.sampling_options == began.sampling_options
    assert moved.eos_token_ids == began.eos_token_ids


@pytest.mark.parametrize("has_reason", [True, False])
async def test_a_worker_that_dies_after_the_last_token_needs_no_successor(tiny_model: Path, has_reason: bool) -> None:
    expected = await undisturbed(tiny_model)
    clusters: list[Cluster] = []

    async def script(request: PreprocessedRequest) -> AsyncIterator[EngineOutput]:
        async with aclosing(OracleEngine().generate(request, Context())) as outputs:
            async for output in outputs:
                if not has_reason:
                    output.finish_reason = None
                yield output
        await asyncio.sleep(0)
        clusters[0].workers[0].lose()
        await asyncio.Event().wait()

    async with cluster_of(tiny_model, [ScriptedEngine(script)]) as (cluster, models):
        clusters.append(cluster)
        assert await ask(models) == expected
        assert cluster.num_lost == 1
        assert models.migrations.migrations.total() == 0


async def test_an_instance_that_discovery_still_names_is_not_asked_again(tiny_model: Path) -> None:
    (mortal,), clusters = losing_all(1, 3)
    refusals = 0

    class Full(OracleEngine):
        async def generate(self, request: PreprocessedRequest, context: Context) -> AsyncGenerator[EngineOutput, None]:
            nonlocal refusals
            if request.num_resumed_tokens and refusals < 3:
                refusals += 1
                raise Overloaded("full")
            async with aclosing(super().generate(request, context)) as outputs:
                async for output in outputs:
                    yield output

    async with cluster_of(tiny_model, [mortal, Full()]) as (cluster, models):
        clusters.append(cluster)
        expected = await undisturbed(tiny_model)
        assert [await ask(models), await ask(models)] == [expected, expected]
        assert refusals == 3
        assert len(mortal.requests) == 1
        assert models.migrations.migrations.total() == 1
        assert models.passed_over() == [f"test/worker/generate/{cluster.workers[0].instance_id:x}"]


async def test_each_of_several_choices_moves_by_itself(tiny_model: Path) -> None:
    (mortal,), clusters = losing_all(1, 7)
    request = completion(stream=True, n=4, seed=11, stream_options={"include_usage": True})
    async with cluster_of(tiny_model, [OracleEngine()]) as (_, models):
        expected = await models.pipeline(MODEL).complete(request, Context("r"))
    async with cluster_of(tiny_model, [mortal, OracleEngine(), OracleEngine()]) as (cluster, models):
        clusters.append(cluster)
        got = await models.pipeline(MODEL).complete(request, Context("r"))
        assert cluster.num_lost == 1
        # A choice that was sent when the worker was dead already has moved, too, and the worker has not seen it.
        assert models.migrations.migrations.total() >= len(mortal.requests) > 0
    one, other = msgspec.json.decode(expected), msgspec.json.decode(got)
    assert (one["choices"], one["usage"]) == (other["choices"], other["usage"])


async def test_a_move_is_logged_with_the_request_and_the_reason(
    tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (mortal,), clusters = losing_all(1, 2)
    async with cluster_of(tiny_model, [mortal, OracleEngine()]) as (cluster, models):
        clusters.append(cluster)
        for _ in range(2):
            await ask(models, context=Context("r77"))
    said = [one.getMessage() for one in caplog.records if one.name == "dynamo.llm._migration"]
    assert len(said) == 1
    assert "request r77 to the model 'tiny' goes to another worker after 2 tokens: instance" in said[0]
    assert "was lost" in said[0]


# Which errors.

TABLE = {
    "unknown": False,
    "invalid_argument": False,
    "not_found": False,
    "no_instances": False,
    "cannot_connect": True,
    "unauthorized": False,
    "incompatible_version": False,
    "disconnected": True,
    "stalled": True,
    "stream_incomplete": False,
    "deadline_exceeded": False,
    "cancelled": False,
    "overloaded": False,
    "worker_unavailable": True,
    "engine_shutdown": True,
    "protocol_error": False,
    "config_error": False,
    "handler_error": False,
    "router_queue_limit_exceeded": False,
    "no_worker_fits": False,
}


def test_every_error_is_decided() -> None:
    assert {code: is_migratable(kind("lost")) for code, kind in errors._BY_CODE.items()} == TABLE


def test_only_a_worker_that_was_lost_without_a_word_counts_as_dead() -> None:
    assert {code for code, kind in errors._BY_CODE.items() if is_death(kind("lost"))} == {"disconnected"}


async def test_an_error_of_the_handler_is_told_and_nothing_moves(tiny_model: Path) -> None:
    async def script(_: PreprocessedRequest) -> AsyncIterator[EngineOutput]:
        yield EngineOutput([300], log_probs=[0.0])
        raise ValueError("a bug")

    engines = [ScriptedEngine(script), ScriptedEngine(script)]
    async with cluster_of(tiny_model, engines) as (_, models):
        with pytest.raises(HandlerError, match="ValueError: a bug"):
            await ask(models)
        assert sum(len(engine.requests) for engine in engines) == 1


# In order.


async def test_a_request_that_runs_when_the_drain_ends_goes_on_elsewhere(tiny_model: Path) -> None:
    expected = await undisturbed(tiny_model)
    hanging = OracleEngine(fault="hang", fault_after_tokens=4)
    async with cluster_of(tiny_model, [hanging, OracleEngine()]) as (cluster, models):
        asking = [asyncio.create_task(ask(models)) for _ in range(2)]
        await within(lambda: hanging.num_tokens == 4)
        await cluster.workers[0].end()
        assert [await one for one in asking] == [expected, expected]
        assert models.migrations.migrations[ONGOING] == 1


async def test_the_end_of_a_drain_hands_requests_over_on_tcp_too(tiny_model: Path) -> None:
    expected = await undisturbed(tiny_model)
    hanging, other = OracleEngine(fault="hang", fault_after_tokens=4), OracleEngine()
    discovery = MemoryDiscovery()
    async with AsyncExitStack() as stack:
        runtimes = [
            await stack.enter_async_context(DistributedRuntime(discovery=discovery, request_plane="tcp:"))
            for _ in range(3)
        ]
        served = []
        for runtime, engine in zip(runtimes, (hanging, other), strict=False):
            endpoint = runtime.endpoint(ENDPOINT)
            served.append(await endpoint.serve(engine.generate, request_type=PreprocessedRequest, drain_s=0.0))
            await register_llm(ModelInput.Tokens, ModelType.Completions, endpoint, str(tiny_model), MODEL)
        models = await stack.enter_async_context(ModelManager(runtimes[2]))
        await within(lambda: len(models.instances().get(MODEL, [])) == 2)
        asking = [asyncio.create_task(ask(models)) for _ in range(2)]
        await within(lambda: hanging.num_tokens == 4)
        await served[0].close()
        assert [await one for one in asking] == [expected, expected]
        assert models.migrations.migrations[ONGOING] == 1


async def test_an_engine_that_ends_hands_its_requests_over(tiny_model: Path) -> None:
    expected = await undisturbed(tiny_model)
    engines = [OracleEngine(fault="close", fault_after_tokens=4), OracleEngine()]
    async with cluster_of(tiny_model, engines) as (_, models):
        assert [await ask(models), await ask(models)] == [expected, expected]

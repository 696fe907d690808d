"""Workers that refuse, or that tell of others, while an answer is on its way to another worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from itertools import chain, repeat
from pathlib import Path

import pytest
from tests.llm.mortal import ENDPOINT, NEW, ONGOING, ask, cluster_of, completion, losing_all, undisturbed
from tests.llm.scene import MODEL, ScriptedEngine, never
from tests.oracle import OracleEngine
from tests.sim.loop import run

from dynamo._core.context import Context
from dynamo._core.errors import (
    CannotConnect,
    Disconnected,
    DynamoError,
    EngineShutdown,
    NoInstances,
    Overloaded,
    WorkerUnavailable,
    from_wire,
    to_wire,
)
from dynamo.llm import EngineOutput, PreprocessedRequest
from dynamo.llm._migration import PATIENCE_S
from dynamo.llm._models import ModelManager
from dynamo.llm._pipeline import TokenPipeline
from dynamo.llm._workers import Workers


class Refusing(OracleEngine):
    """Refuses as often as it is told to, together with others that share the list, and then answers."""

    def __init__(self, refusals: list[DynamoError], when: Callable[[], bool] = lambda: True) -> None:
        super().__init__()
        self._refusals = refusals
        self._when = when

    async def generate(self, request: PreprocessedRequest, context: Context) -> AsyncGenerator[EngineOutput, None]:
        if self._refusals and self._when():
            raise self._refusals.pop()
        async with aclosing(super().generate(request, context)) as outputs:
            async for output in outputs:
                yield output


@pytest.mark.parametrize("at", [0, 3])
def test_after_a_loss_a_refusal_is_not_the_end_while_another_worker_takes_the_request(
    tiny_model: Path, at: int
) -> None:
    async def story(loop: asyncio.AbstractEventLoop) -> None:
        expected = await undisturbed(tiny_model)
        (mortal,), clusters = losing_all(1, at)
        refusals: list[DynamoError] = [Overloaded("full", retry_after_s=5.0)]
        others = [Refusing(refusals, lambda: clusters[0].num_lost > 0) for _ in range(2)]
        async with cluster_of(tiny_model, [mortal, *others]) as (cluster, models):
            clusters.append(cluster)
            began_s = loop.time()
            for _ in range(3):  # in turn: one of them begins with the mortal one
                assert await ask(models) == expected
            assert refusals == []
            assert models.migrations.migrations[ONGOING if at else NEW] == 1
            assert loop.time() - began_s < 5.0, "nobody waited for the one that refused"

    run(story, 1)


def workers_of(models: ModelManager) -> Workers:
    pipeline = models.pipeline(MODEL)
    assert isinstance(pipeline, TokenPipeline)
    return pipeline._migration.workers


async def test_beside_an_instance_without_a_card_a_refusal_is_not_the_end(tiny_model: Path) -> None:
    refusals: list[DynamoError] = [Overloaded("full")]
    stranger = ScriptedEngine(never)
    async with (
        cluster_of(tiny_model, [Refusing(refusals), Refusing(refusals)]) as (cluster, models),
        cluster.world.runtime() as runtime,
    ):
        await runtime.endpoint(ENDPOINT).serve(stranger.generate, request_type=PreprocessedRequest, drain_s=0.0)
        await workers_of(models).client.wait_for_instances(3)
        for _ in range(4):
            assert (await ask(models)).reasons == ["length"]
        assert (refusals, stranger.requests) == ([], [])


async def test_a_refused_request_does_not_go_to_an_instance_that_has_come_without_a_card(tiny_model: Path) -> None:
    stranger = ScriptedEngine(never)

    class Late(OracleEngine):
        """Refuses once a stranger is there."""

        async def generate(self, request: PreprocessedRequest, context: Context) -> AsyncGenerator[EngineOutput, None]:
            await runtime.endpoint(ENDPOINT).serve(stranger.generate, request_type=PreprocessedRequest, drain_s=0.0)
            await workers_of(models).client.wait_for_instances(2)
            raise Overloaded("full")
            yield

    async with cluster_of(tiny_model, [Late()]) as (cluster, models), cluster.world.runtime() as runtime:
        with pytest.raises(Overloaded):
            await ask(models)
        assert stranger.requests == []


# Workers that are callers themselves.


class Relay(OracleEngine):
    """Tells of errors of somebody behind it, the first after two tokens, and then answers by itself."""

    def __init__(self, errors: Iterable[DynamoError]) -> None:
        super().__init__()
        self.num_asked = 0
        self._errors = iter(errors)

    async def generate(self, request: PreprocessedRequest, context: Context) -> AsyncGenerator[EngineOutput, None]:
        self.num_asked += 1
        error = next(self._errors, None)
        async with aclosing(super().generate(request, context)) as outputs:
            if error is not None:
                for _ in range(0 if request.num_resumed_tokens else 2):
                    yield await anext(outputs)
                raise from_wire(to_wire(error))  # as one hears it from a worker
            async for output in outputs:
                yield output


@pytest.mark.parametrize("kind", [Disconnected, EngineShutdown, CannotConnect, WorkerUnavailable])
async def test_a_worker_that_tells_of_the_loss_of_another_one_is_well_and_asked_again(
    tiny_model: Path, kind: type[DynamoError]
) -> None:
    expected = await undisturbed(tiny_model)
    relay = Relay([kind("the one behind is lost")])
    async with cluster_of(tiny_model, [relay]) as (_, models):
        assert await ask(models) == expected
        assert relay.num_asked == 2


def test_an_answer_that_a_worker_has_nobody_for_waits_between_one_try_and_the_next(tiny_model: Path) -> None:
    async def story(loop: asyncio.AbstractEventLoop) -> None:
        relay = Relay(chain([Disconnected("the one behind is lost")], repeat(NoInstances("nobody is behind"))))
        async with cluster_of(tiny_model, [relay]) as (_, models):
            began_s = loop.time()
            with pytest.raises(NoInstances, match="nobody is behind"):
                [_ async for _ in models.pipeline(MODEL).stream(completion(stream=True), Context())]
            assert loop.time() - began_s == pytest.approx(PATIENCE_S, abs=1.0)
            assert 5 < relay.num_asked < 40

    run(story, 1)

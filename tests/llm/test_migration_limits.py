"""How often an answer moves, and what ends it: limits, requests that kill, and nobody to go to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
from tests.llm.mortal import (
    COUNT,
    NEW,
    ONGOING,
    Cluster,
    ask,
    cluster_of,
    completion,
    losing_all,
    undisturbed,
    within,
)
from tests.llm.scene import MODEL, ScriptedEngine, never, until
from tests.oracle import OracleEngine
from tests.sim.loop import run

from dynamo._core.context import Context
from dynamo._core.errors import (
    Cancelled,
    Disconnected,
    EngineShutdown,
    NoInstances,
    Stalled,
)
from dynamo.llm import EngineOutput, PreprocessedRequest
from dynamo.llm._migration import PATIENCE_S
from dynamo.llm._models import KEPT_S
from dynamo.llm._poison import PoisonedRequest

# How often.


async def test_without_migration_a_lost_worker_is_an_error(tiny_model: Path) -> None:
    for card_limit, limit in ((0, None), (3, 0)):
        engines, clusters = losing_all(2, 3)
        async with cluster_of(tiny_model, engines, card_limit=card_limit, migration_limit=limit) as (cluster, models):
            clusters.append(cluster)
            with pytest.raises(Disconnected):
                await ask(models)
            assert cluster.num_lost == 1
            assert models.migrations.migrations == {ONGOING: 0, NEW: 0}


async def test_stalls_do_not_count_as_deaths_and_end_at_the_limit(tiny_model: Path) -> None:
    engines, clusters = losing_all(5, 1, Stalled("no item came in time"))
    async with cluster_of(tiny_model, engines) as (cluster, models):
        clusters.append(cluster)
        with pytest.raises(Stalled):
            await ask(models)
        assert cluster.num_lost == 4
        assert models.migrations.migrations[ONGOING] == 3
        assert models.migrations.limit_exceeded[MODEL] == 1


async def test_the_frontends_limit_beats_that_of_the_card(tiny_model: Path) -> None:
    engines, clusters = losing_all(5, 1, Stalled("no item came in time"))
    async with cluster_of(tiny_model, engines, card_limit=0, migration_limit=1) as (cluster, models):
        clusters.append(cluster)
        with pytest.raises(Stalled):
            await ask(models)
        assert cluster.num_lost == 2


async def test_a_request_over_the_length_for_migration_stays(tiny_model: Path) -> None:
    for limit, error in ((4 + 3, None), (4 + 2, Disconnected)):
        (mortal,), clusters = losing_all(1, 3)
        async with cluster_of(tiny_model, [mortal, OracleEngine()], migration_max_seq_len=limit) as (cluster, models):
            clusters.append(cluster)
            results = await asyncio.gather(ask(models), ask(models), return_exceptions=True)
            assert [type(one) for one in results if isinstance(one, Exception)] == ([error] if error else [])
            assert models.migrations.max_seq_len_exceeded[MODEL] == (1 if error else 0)


async def test_a_rolling_restart_of_more_workers_than_the_limit_ends_no_answer(tiny_model: Path) -> None:
    expected = await undisturbed(tiny_model)
    clusters: list[Cluster] = []

    class Restarted(OracleEngine):
        """Gives two tokens, and then its worker is restarted."""

        async def generate(self, request: PreprocessedRequest, context: Context) -> AsyncGenerator[EngineOutput, None]:
            async with aclosing(super().generate(request, context)) as outputs:
                for _ in range(2):
                    yield await anext(outputs)
                (own,) = (worker for worker in clusters[0].workers if worker.engine is self)
                await clusters[0].join(Restarted())
                ending.append(asyncio.ensure_future(own.end()))
                await asyncio.Event().wait()

    ending: list[asyncio.Future[None]] = []
    async with cluster_of(tiny_model, [Restarted()]) as (cluster, models):
        clusters.append(cluster)
        assert await ask(models) == expected
        assert models.migrations.migrations[ONGOING] == COUNT // 2 - 1 > 3
        await asyncio.gather(*ending)


# Requests that kill.


async def test_a_poisoned_request_ends_with_the_second_worker_that_it_kills(tiny_model: Path) -> None:
    clusters: list[Cluster] = []

    def poisonable() -> OracleEngine:
        engine: OracleEngine

        def die() -> None:
            next(worker for worker in clusters[0].workers if worker.engine is engine).lose()

        engine = OracleEngine(poison_token=666, die=die)
        return engine

    engines = [poisonable() for _ in range(5)]
    poison = completion(stream=True, prompt=[300, 666], stream_options={"include_usage": True})
    async with cluster_of(tiny_model, engines) as (cluster, models):
        clusters.append(cluster)
        with pytest.raises(PoisonedRequest, match="2 workers were lost while they answered this request"):
            await ask(models, poison)
        assert cluster.num_lost == 2
        # Nor does it get to another worker when it is sent again, with whatever seed.
        num_requests = sum(len(engine.requests) for engine in engines)
        for request in (poison, completion(stream=True, prompt=[300, 666], seed=1)):
            with pytest.raises(PoisonedRequest, match="is refused for 60 s more"):
                await ask(models, request)
        assert sum(len(engine.requests) for engine in engines) == num_requests == 2
        assert models.migrations.poisoned[MODEL] == 1
        # Everybody else is served.
        for _ in range(3):
            assert (await ask(models)).reasons == ["length"]
        assert cluster.num_lost == 2


@pytest.mark.parametrize("n", [2, 8])
async def test_a_poisoned_request_kills_two_workers_however_many_choices_it_has(tiny_model: Path, n: int) -> None:
    engines, clusters = losing_all(5, 0)
    async with cluster_of(tiny_model, engines) as (cluster, models):
        clusters.append(cluster)
        with pytest.raises(PoisonedRequest):
            await ask(models, completion(stream=True, n=n, stream_options={"include_usage": True}))
        assert cluster.num_lost == 2


async def test_who_has_but_one_worker_to_go_to_waits_for_nobody(tiny_model: Path) -> None:
    engine = ScriptedEngine(never)
    async with cluster_of(tiny_model, [engine]) as (_, models):
        asking = [asyncio.create_task(ask(models)) for _ in range(3)]
        await within(lambda: len(engine.requests) == 3)
        for one in asking:
            one.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


# Nobody left.


async def test_a_request_that_shows_nothing_yet_does_not_wait_for_a_worker(tiny_model: Path) -> None:
    (mortal,), clusters = losing_all(1, 0)
    async with cluster_of(tiny_model, [mortal]) as (cluster, models):
        clusters.append(cluster)
        with pytest.raises(NoInstances):
            await ask(models)


@pytest.mark.parametrize("is_known", [True, False])
async def test_an_answer_that_has_begun_waits_for_the_next_worker(tiny_model: Path, is_known: bool) -> None:
    expected = await undisturbed(tiny_model)
    (mortal,), clusters = losing_all(1, 6)
    async with cluster_of(tiny_model, [mortal]) as (cluster, models):
        clusters.append(cluster)
        pipeline = models.pipeline(MODEL)
        asking = asyncio.create_task(ask(models))
        await until(lambda: cluster.num_lost == 1)
        if is_known:  # the model is gone with its last worker, and comes back
            await cluster.leave(cluster.workers[0])
            await until(lambda: models.names() == [])
        await cluster.join(OracleEngine())
        assert await asking == expected
        assert models.pipeline(MODEL) is pipeline


@pytest.mark.parametrize("is_known", [True, False])
def test_an_answer_waits_for_the_next_worker_for_ten_seconds_and_no_longer(tiny_model: Path, is_known: bool) -> None:
    async def story(loop: asyncio.AbstractEventLoop) -> None:
        (mortal,), clusters = losing_all(1, 6)
        async with cluster_of(tiny_model, [mortal]) as (cluster, models):
            clusters.append(cluster)
            asking = asyncio.create_task(all_of(models.pipeline(MODEL).stream(completion(stream=True), Context())))
            await within(lambda: cluster.num_lost == 1)
            began_s = loop.time()
            if is_known:
                await cluster.leave(cluster.workers[0])
            with pytest.raises(NoInstances):
                await asking
            assert loop.time() - began_s == pytest.approx(PATIENCE_S, abs=0.1)
            # And then nothing is kept of a model that is gone.
            await asyncio.sleep(KEPT_S)
            assert len(models._kept) == 0

    run(story, 1)


async def all_of(batches: AsyncGenerator[list[bytes], None]) -> int:
    return sum([len(batch) async for batch in batches])


async def test_an_answer_does_not_wait_for_a_worker_of_another_kind(tiny_model: Path) -> None:
    (mortal,), clusters = losing_all(1, 6)
    async with cluster_of(tiny_model, [mortal]) as (cluster, models):
        clusters.append(cluster)
        pipeline = models.pipeline(MODEL)
        asking = asyncio.create_task(ask(models))
        await until(lambda: cluster.num_lost == 1)
        await cluster.leave(cluster.workers[0])
        await until(lambda: models.names() == [])
        await cluster.join(OracleEngine(), context_length=512)
        await within(lambda: models.names() == [MODEL])
        assert models.pipeline(MODEL) is not pipeline
        with pytest.raises(NoInstances, match=f"the model '{MODEL}' is gone"):
            await asking


async def test_a_request_that_waits_for_a_worker_ends_when_nobody_wants_it(tiny_model: Path) -> None:
    (mortal,), clusters = losing_all(1, 6)
    async with cluster_of(tiny_model, [mortal]) as (cluster, models):
        clusters.append(cluster)
        context = Context()
        asking = asyncio.create_task(ask(models, context=context))
        await until(lambda: models.migrations.migrations.total() == 1)
        context.kill()
        with pytest.raises(Cancelled):
            await asking


async def test_an_engine_that_shuts_down_again_and_again_ends_at_the_limit(tiny_model: Path) -> None:
    async def script(_: PreprocessedRequest) -> AsyncIterator[EngineOutput]:
        raise EngineShutdown("the engine is closed")
        yield EngineOutput()

    engines = [ScriptedEngine(script) for _ in range(6)]
    async with cluster_of(tiny_model, engines) as (_, models):
        with pytest.raises(EngineShutdown):
            await ask(models)
        assert sum(len(engine.requests) for engine in engines) == 4

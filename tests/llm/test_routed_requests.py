"""What a router hears of the requests that it places, and what becomes of them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from tests.llm.mortal import COUNT, ENDPOINT, PROMPT, Cluster, ask, cluster_of, completion, losing_all, within
from tests.llm.scene import MODEL, ScriptedEngine, forever, never
from tests.oracle import OracleEngine, tokens

from dynamo._core.context import Context
from dynamo._core.errors import (
    DeadlineExceeded,
    Disconnected,
    InvalidArgument,
    NoInstances,
    Overloaded,
)
from dynamo._core.virtual_clock import run_virtually
from dynamo.llm import EngineOutput, PreprocessedRequest
from dynamo.llm._kv_router.config import KvRouterConfig, RouterConfig, RouterMode
from dynamo.llm._kv_router.router import KvRouter
from dynamo.llm._migration import Migration, MigrationPolicy, MigrationStats
from dynamo.llm._mode_decision import ModeDecisions
from dynamo.llm._model_card import ModelCard
from dynamo.llm._models import ModelManager
from dynamo.llm._openai import CompletionRequest
from dynamo.llm._pipeline import TokenPipeline
from dynamo.llm._poison import PoisonList
from dynamo.llm._preprocess import Preprocessor
from dynamo.llm._routing import Asked, Explanation, RouterConfigOverride, RoutingConstraints, RoutingHints
from dynamo.llm._routing_modes import ModeRouter
from dynamo.llm._workers import Workers

CHOOSING = [mode for mode in RouterMode if mode not in (RouterMode.Direct, RouterMode.RoundRobin)]


class Why(msgspec.Struct):
    """A decision of the router below."""

    number: int


class NotedRoute:
    """Notes what it hears."""

    def __init__(self, asked: Asked, number: int, dp_rank: int | None, first: int | None) -> None:
        self.asked = asked
        self._first = first
        self.avoided = set(asked.avoid)
        self.dp_rank = dp_rank
        self.decision = Why(number)
        self.chosen: list[int] = []
        self.num_answers = 0
        self.tokens: list[int] = []
        self.cached: list[int] = []
        self.num_closed = 0

    def choose(self, ids: list[int]) -> int:
        assert not self.num_closed
        self.chosen.append(self._first if self._first in ids else min(ids))
        return self.chosen[-1]

    def note_answer(self) -> None:
        self.num_answers += 1

    def note_tokens(self, num_tokens: int) -> None:
        self.tokens.append(num_tokens)

    def note_cached(self, num_tokens: int) -> None:
        self.cached.append(num_tokens)

    def close(self) -> None:
        self.num_closed += 1


class NotedRouter:
    """Takes one worker first, if it may, and else that with the smallest id; and notes everything."""

    def __init__(self, *, dp_rank: int | None = None, place: Callable[[Asked], None] = lambda asked: None) -> None:
        self.routes: list[NotedRoute] = []
        self.decisions = ModeDecisions()
        self.first: int | None = None
        self._dp_rank = dp_rank
        self._place = place

    async def place(self, asked: Asked) -> NotedRoute:
        self._place(asked)
        self.routes.append(NotedRoute(asked, len(self.routes), self._dp_rank, self.first))
        return self.routes[-1]

    async def close(self) -> None:
        pass


@asynccontextmanager
async def routed(
    model_path: Path, router: NotedRouter, engines: list[OracleEngine] | list[ScriptedEngine]
) -> AsyncIterator[tuple[Cluster, TokenPipeline]]:
    """A pipeline before these engines, whose requests the router places."""
    async with AsyncExitStack() as stack:
        cluster = Cluster(model_path, stack)
        for engine in engines:
            await cluster.join(engine)
        runtime = await stack.enter_async_context(cluster.world.runtime())
        client = await runtime.endpoint(ENDPOINT).client()
        await client.wait_for_instances(len(engines))
        workers = Workers(MODEL, client, None, random.Random(1))
        workers.router = router
        clock = asyncio.get_running_loop().time
        migration = Migration(MODEL, workers, MigrationPolicy(), MigrationStats(), PoisonList(clock), random.Random(1))
        preprocessor = await Preprocessor.load(ModelCard.from_local_path(model_path, name=MODEL))
        try:
            yield cluster, TokenPipeline(preprocessor, migration)
        finally:
            preprocessor.close()
            await workers.close()


async def answer(
    pipeline: TokenPipeline, request: CompletionRequest | None = None, hints: RoutingHints | None = None
) -> dict[str, object]:
    whole = await pipeline.complete(request or completion(), Context(), hints or RoutingHints())
    return msgspec.json.decode(whole, type=dict[str, object])


async def test_a_route_hears_of_the_first_output_of_each_batch_of_tokens_and_of_the_end(tiny_model: Path) -> None:
    router = NotedRouter()
    async with routed(tiny_model, router, [OracleEngine()]) as (_, pipeline):
        await answer(pipeline)
    (route,) = router.routes
    assert (route.num_answers, sum(route.tokens), route.num_closed) == (1, COUNT, 1)
    assert route.asked.token_ids == PROMPT
    assert isinstance(route.asked.request, PreprocessedRequest)


async def test_a_request_that_moves_is_placed_anew_with_what_was_generated_and_without_who_has_lost_it(
    tiny_model: Path,
) -> None:
    mortals, clusters = losing_all(1, 5)
    router = NotedRouter()
    async with routed(tiny_model, router, [*mortals, OracleEngine()]) as (cluster, pipeline):
        clusters.append(cluster)
        router.first = cluster.workers[0].instance_id
        await answer(pipeline)
    lost, taken = router.routes
    assert (lost.num_answers, sum(lost.tokens), lost.num_closed) == (1, 5, 1)
    assert (taken.num_answers, sum(taken.tokens), taken.num_closed) == (1, COUNT - 5, 1)
    assert taken.asked.token_ids == PROMPT + tokens(PROMPT, 5, lost.asked.request.sampling_options)  # type: ignore[attr-defined]
    assert (lost.avoided, taken.avoided) == (set(), {router.first})


async def test_a_router_and_each_worker_of_a_request_are_told_its_salt(tiny_model: Path) -> None:
    mortals, clusters = losing_all(1, 5)
    engine, router = OracleEngine(), NotedRouter()
    async with routed(tiny_model, router, [*mortals, engine]) as (cluster, pipeline):
        clusters.append(cluster)
        router.first = cluster.workers[0].instance_id
        await answer(pipeline, completion(cache_salt="tenant"))
        await answer(pipeline, completion(nvext={"cache_salt": "other"}))
        await answer(pipeline)
    assert [route.asked.cache_namespace for route in router.routes] == ["tenant", "tenant", "other", None]
    assert [request.cache_salt for one in (*mortals, engine) for request in one.requests] == [
        "tenant",
        "tenant",
        "other",
        None,
    ]


async def test_a_request_that_nobody_has_begun_keeps_its_route_which_chooses_again(tiny_model: Path) -> None:
    async def full(_: PreprocessedRequest) -> AsyncIterator[EngineOutput]:
        raise Overloaded("full")
        yield EngineOutput()

    router = NotedRouter()
    async with routed(tiny_model, router, [ScriptedEngine(full), ScriptedEngine(full)]) as (cluster, pipeline):
        with pytest.raises(Overloaded):
            await answer(pipeline)
    (route,) = router.routes
    assert route.chosen == sorted(worker.instance_id for worker in cluster.workers)
    assert (route.num_answers, route.num_closed) == (0, 1)


async def test_each_answer_of_several_is_placed_by_itself(tiny_model: Path) -> None:
    router = NotedRouter()
    async with routed(tiny_model, router, [OracleEngine()]) as (_, pipeline):
        await answer(pipeline, completion(n=3))
    assert len({route.asked.context.request_id for route in router.routes}) == 3
    assert [route.num_closed for route in router.routes] == [1, 1, 1]


async def test_the_rank_that_was_chosen_is_told_to_the_worker(tiny_model: Path) -> None:
    engine = OracleEngine()
    async with routed(tiny_model, NotedRouter(dp_rank=3), [engine]) as (_, pipeline):
        await answer(pipeline)
    assert [request.dp_rank for request in engine.requests] == [3]


@pytest.mark.parametrize("script", [forever, never])
async def test_a_client_that_leaves_ends_the_route(
    tiny_model: Path, script: Callable[..., AsyncIterator[EngineOutput]]
) -> None:
    router = NotedRouter()
    engine = ScriptedEngine(script)
    async with routed(tiny_model, router, [engine]) as (_, pipeline):
        asking = asyncio.ensure_future(answer(pipeline, completion(max_tokens=500)))
        await engine.started.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert [route.num_closed for route in router.routes] == [1]


async def test_an_answer_that_is_cut_at_a_stop_string_ends_the_route(tiny_model: Path) -> None:
    router = NotedRouter()
    async with routed(tiny_model, router, [OracleEngine()]) as (_, pipeline):
        whole = await answer(pipeline, completion(max_tokens=200, stop=["e"]))
    assert msgspec.json.encode(whole).count(b'"stop"') == 1
    assert [route.num_closed for route in router.routes] == [1]


async def test_what_the_router_raises_is_the_answer(tiny_model: Path) -> None:
    def refuse(asked: Asked) -> None:
        raise Overloaded("as many wait as may")

    async with routed(tiny_model, NotedRouter(place=refuse), [OracleEngine()]) as (_, pipeline):
        with pytest.raises(Overloaded, match="as many wait"):
            await answer(pipeline)


async def test_without_workers_the_router_is_not_asked(tiny_model: Path) -> None:
    router = NotedRouter()
    async with routed(tiny_model, router, [OracleEngine()]) as (cluster, pipeline):
        await cluster.leave(cluster.workers[0])
        with pytest.raises(NoInstances, match="no live worker serves the model 'tiny'"):
            await answer(pipeline)
    assert router.routes == []


def test_an_answer_that_has_begun_and_for_which_no_worker_is_right_waits_without_haste(tiny_model: Path) -> None:
    async def main() -> int:
        mortals, clusters = losing_all(1, 5)
        num_asked = 0

        def refuse_what_has_begun(asked: Asked) -> None:
            nonlocal num_asked
            if asked.avoid:
                num_asked += 1
                raise NoInstances("none has the taint")

        router = NotedRouter(place=refuse_what_has_begun)
        async with routed(tiny_model, router, [*mortals, OracleEngine()]) as (cluster, pipeline):
            clusters.append(cluster)
            router.first = cluster.workers[0].instance_id
            context = Context(deadline=asyncio.get_running_loop().time() + 0.5)
            with pytest.raises(DeadlineExceeded):
                await pipeline.complete(completion(), context)
            return num_asked

    assert 1 <= run_virtually(main()) < 30


async def test_whoever_asks_is_told_why_a_request_went_where_it_went(tiny_model: Path) -> None:
    explanation = Explanation()
    async with routed(tiny_model, NotedRouter(), [OracleEngine()]) as (_, pipeline):
        await answer(pipeline, completion(n=2), RoutingHints(explanation=explanation))
    assert explanation.take() == [Why(0), Why(1)]
    assert explanation.take() == []


# With real routers.


def running(models: ModelManager) -> int:
    """How many requests are booked in one of the simple modes."""
    (router,) = models.routers().values()
    assert isinstance(router, ModeRouter)
    return router.num_requests()


async def booked(models: ModelManager) -> int:
    """How many requests are booked."""
    (router,) = models.routers().values()
    if isinstance(router, KvRouter):
        return sum(load["active_requests"] for load in await router.get_potential_loads([]))
    return running(models)


def asking_for(token_id: int) -> CompletionRequest:
    return completion(stream=True, prompt=[token_id], stream_options={"include_usage": True})


def config_of(mode: RouterMode) -> RouterConfig:
    return RouterConfig(mode, KvRouterConfig(use_kv_events=False) if mode is RouterMode.KV else None)


@pytest.mark.parametrize("mode", CHOOSING)
async def test_answers_are_the_same_in_every_mode_and_nothing_stays_booked(tiny_model: Path, mode: RouterMode) -> None:
    engines = [OracleEngine() for _ in range(3)]
    async with cluster_of(tiny_model, engines, router=config_of(mode)) as (_, models):
        answers = await asyncio.gather(*(ask(models) for _ in range(30)))
        assert all(answer == answers[0] for answer in answers)
        assert await booked(models) == 0


@pytest.mark.parametrize("mode", CHOOSING)
async def test_nothing_stays_booked_when_workers_are_lost_and_clients_leave(tiny_model: Path, mode: RouterMode) -> None:
    mortals, clusters = losing_all(1, 30)
    others = [OracleEngine(delay_s=0.001) for _ in range(3)]
    async with cluster_of(tiny_model, [*mortals, *others], router=config_of(mode)) as (cluster, models):
        clusters.append(cluster)
        asking = [asyncio.ensure_future(ask(models, asking_for(300 + i))) for i in range(40)]
        for task in asking[::4]:
            await asyncio.sleep(0.001)
            task.cancel()
        await asyncio.wait(asking)
        assert cluster.num_lost
        assert {type(task.exception()) for task in asking if not task.cancelled()} == {type(None)}
        assert await booked(models) == 0


async def test_requests_are_booked_while_they_run(tiny_model: Path) -> None:
    engines = [ScriptedEngine(never) for _ in range(2)]
    async with cluster_of(tiny_model, engines, router=RouterConfig(RouterMode.LeastLoaded)) as (_, models):
        asking = [asyncio.ensure_future(ask(models, asking_for(300 + i))) for i in range(6)]
        await within(lambda: running(models) == 6)
        await within(lambda: [len(engine.requests) for engine in engines] == [3, 3])
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)
        assert await booked(models) == 0


# What requests ask for where workers are asked in turn.


async def test_a_request_that_names_its_worker_goes_there_and_does_not_move(tiny_model: Path) -> None:
    mortals, clusters = losing_all(1, 5)
    async with cluster_of(tiny_model, [*mortals, OracleEngine()]) as (cluster, models):
        clusters.append(cluster)
        named = cluster.workers[0].instance_id
        with pytest.raises(Disconnected):
            await models.pipeline(MODEL).complete(completion(), Context(), RoutingHints(pinned_instance=named))
        with pytest.raises(NoInstances, match="is instance"):
            await models.pipeline(MODEL).complete(completion(), Context(), RoutingHints(pinned_instance=named))
        assert len(mortals[0].requests) == 1
        assert models.migrations.migrations.total() == 0


async def test_required_taints_are_those_of_the_model_cards(tiny_model: Path) -> None:
    wanted = RoutingHints(constraints=RoutingConstraints(required_taints=frozenset(["gpu"])))
    async with cluster_of(tiny_model, [OracleEngine()]) as (_, models):
        with pytest.raises(NoInstances, match=r"none of the 1 workers .*, gpu: no worker has gpu; .* are: none$"):
            await models.pipeline(MODEL).complete(completion(), Context(), wanted)


async def test_weights_of_the_kv_router_are_refused_where_there_is_none(tiny_model: Path) -> None:
    hints = RoutingHints(override=RouterConfigOverride(router_temperature=0.5))
    async with cluster_of(tiny_model, [OracleEngine()]) as (_, models):
        with pytest.raises(InvalidArgument, match="the router mode kv"):
            await models.pipeline(MODEL).complete(completion(), Context(), hints)


async def test_a_request_of_a_closed_deadline_is_not_placed_for_ever(tiny_model: Path) -> None:
    async with cluster_of(tiny_model, [ScriptedEngine(never)], router=RouterConfig(RouterMode.Random)) as (_, models):
        context = Context(deadline=asyncio.get_running_loop().time() + 0.05)
        with pytest.raises(DeadlineExceeded):
            await models.pipeline(MODEL).complete(completion(), context)
        assert await booked(models) == 0

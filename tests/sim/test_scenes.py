"""Promises with a figure in them, each in a scene of its own: a seed at random rarely shows one that is broken."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Coroutine
from dataclasses import replace

import pytest
from tests.sim.account import end_all, wrong_when_quiet
from tests.sim.bulk import AHEAD_BYTES_MAX
from tests.sim.cluster import Caller, Cluster, Worker, ready_cluster
from tests.sim.engine import SimEngine
from tests.sim.load import Outcome, check_bulk, check_call, check_http, send_bulk, send_call, send_http
from tests.sim.loop import SimLoop, run
from tests.sim.scenario import LONG, Ask, BulkCall, Call, HttpRequest
from tests.sim.simulate import QUIET_S, learn, reference

from dynamo._core.context import Context
from dynamo.llm import EngineOutput, PreprocessedRequest
from dynamo.llm._kv_router.config import KvRouterConfig, RouterConfig, RouterMode
from dynamo.runtime._quarantine import PROBE_TIMEOUT_S
from dynamo.runtime._timeouts import StreamTimeouts

#: A worker that says nothing is given up, and its requests go on elsewhere, within so long.
SILENCE_MAX_S = 8.0
#: The place of a client that left is free within so long.
FREE_WITHIN_S = 1.0
#: An answer that does not end of itself before it has all of its tokens.
ASK = Ask("story 6", 60)
KV_THAT_QUEUES = RouterConfig(RouterMode.KV, KvRouterConfig(queue_threshold=1.0))


async def wrongs_at_the_end(cluster: Cluster) -> list[str]:
    """Heal, wait until all is quiet, end everything, and say what is wrong."""
    cluster.air.is_busy = False
    cluster.heal()
    await asyncio.sleep(QUIET_S)
    wrongs = await wrong_when_quiet(cluster) + await end_all(cluster)
    return wrongs + cluster.wrongs + cluster.loop.uncaught


def engine_of(worker: Worker) -> SimEngine:
    assert worker.engine is not None
    return worker.engine


async def ask(cluster: Cluster, request: HttpRequest, at_s: float = 0.0) -> Outcome:
    """Send a request to the frontend, and have it answered."""
    await asyncio.sleep(at_s)
    [frontend] = cluster.frontends()
    outcome = Outcome(request.name)
    await send_http(frontend, request, outcome)
    outcome.wrongs = check_http(request, outcome, reference.get(request.ask, outcome))
    return outcome


async def call(cluster: Cluster, one: Call) -> Outcome:
    await asyncio.sleep(one.at_s)
    [caller] = cluster.callers()
    outcome = Outcome(one.name)
    await send_call(cluster, caller, one, outcome)
    outcome.wrongs = check_call(one, outcome)
    return outcome


def started(works: list[Coroutine[object, object, Outcome]]) -> list[asyncio.Task[Outcome]]:
    return [asyncio.create_task(work) for work in works]


# Silence


@pytest.mark.parametrize("seed", range(4))
def test_each_request_of_a_worker_that_is_stopped_goes_on_elsewhere_in_time(seed: int) -> None:
    rng = random.Random(seed)
    learn([ASK])

    async def main(loop: SimLoop) -> None:
        async with ready_cluster(loop, seed, workers=3, callers=1, pace_s=0.05) as cluster:
            http = [HttpRequest(f"http-{number}", 0.0, 0, ASK) for number in range(80)]
            calls = [Call(f"call-{number}", rng.uniform(0.0, 12.0), 0, (20, number), 60) for number in range(40)]
            asking = started([ask(cluster, request, rng.uniform(0.0, 12.0)) for request in http])
            calling = started([call(cluster, one) for one in calls])
            await asyncio.sleep(3.0)
            stopped = max(cluster.workers(), key=lambda worker: len(engine_of(worker).running))
            assert len(engine_of(stopped).running) > 2
            stopped.host.stop()
            asked = await asyncio.gather(*asking)
            called = await asyncio.gather(*calling)
            assert [wrong for outcome in asked + called for wrong in outcome.wrongs] == []
            assert [outcome for outcome in asked if outcome.how != "finished"] == []
            # A caller without migration is told in the same time.
            assert {(outcome.how, outcome.code) for outcome in called} >= {("failed", "stalled")}
            assert max(outcome.longest_pause_s for outcome in asked + called) < SILENCE_MAX_S
            assert await wrongs_at_the_end(cluster) == []

    run(main, seed)


# Restarts


@pytest.mark.parametrize("drain_s", [0.0, 0.5, 30.0])
def test_a_restart_of_all_workers_one_by_one_fails_no_request(drain_s: float) -> None:
    rng = random.Random(drain_s)
    learn([ASK])

    async def main(loop: SimLoop) -> None:
        async with ready_cluster(loop, 0, workers=3, pace_s=0.05, drain_s=drain_s) as cluster:
            http = [HttpRequest(f"http-{number}", 0.0, 0, ASK, number % 4 > 0) for number in range(100)]
            asking = started([ask(cluster, request, rng.uniform(0.0, 15.0)) for request in http])
            for worker in cluster.workers():
                await asyncio.sleep(3.0)
                await cluster.start_worker(0.05, drain_s).wait_ready()
                worker.end()
                await worker.task
            asked = await asyncio.gather(*asking)
            assert [outcome for outcome in asked if outcome.wrongs or outcome.how != "finished"] == []
            has_moved = sum(len(engine_of(worker).begun) for worker in cluster.all_workers()) > len(http)
            assert has_moved == (drain_s < 30.0)
            assert await wrongs_at_the_end(cluster) == []

    run(main, 0)


# Clients that leave


@pytest.mark.parametrize("seed", range(2))
def test_the_places_of_clients_that_leave_are_free_within_a_second(seed: int) -> None:
    rng = random.Random(seed)

    async def main(loop: SimLoop) -> None:
        async with ready_cluster(loop, seed, workers=2, callers=1, pace_s=0.05) as cluster:
            start_s = loop.time()
            wrongs: list[str] = []

            async def watch(name: str, left_s: float) -> None:
                await asyncio.sleep(start_s + left_s + FREE_WITHIN_S - loop.time())
                engines = map(engine_of, cluster.workers())
                wrongs.extend(f"{name} has a place" for engine in engines if name in engine.running)

            def leaving(number: int) -> tuple[Coroutine[object, object, Outcome], float]:
                at_s, stay_s = rng.uniform(0.0, 10.0), rng.uniform(0.01, 2.5)
                if number % 5 < 2:
                    is_stream = number % 5 == 0
                    request = HttpRequest(f"one-{number}", 0.0, 0, ASK, is_stream, leave_after_s=stay_s)
                    return ask(cluster, request, at_s), at_s + stay_s
                one = Call(f"one-{number}", at_s, 0, (20, number), LONG, leave_after_s=stay_s)
                if number % 5 == 2:
                    one = replace(one, leave_after_s=None, timeout_s=stay_s)
                else:
                    one = replace(one, leave_by="kill" if number % 5 == 3 else "cancel")
                return call(cluster, one), at_s + stay_s

            made = [leaving(number) for number in range(200)]
            works = started([work for work, _ in made])
            watches = [asyncio.create_task(watch(f"one-{number}", left_s)) for number, (_, left_s) in enumerate(made)]
            await asyncio.sleep(5.0)
            assert sum(len(engine_of(worker).running) for worker in cluster.workers()) > 10
            ends = {outcome.how for outcome in await asyncio.gather(*works)}
            await asyncio.gather(*watches)
            assert ends == {"left", "failed"}  # failed: by its deadline, or killed
            assert wrongs == []
            assert await wrongs_at_the_end(cluster) == []

    run(main, seed)


# Slow readers


@pytest.mark.parametrize("seed", range(3))
def test_a_slow_reader_stalls_its_own_producer_and_nobody_else(seed: int) -> None:
    async def main(loop: SimLoop) -> None:
        async with ready_cluster(loop, seed, callers=1) as cluster:
            [caller] = cluster.callers()
            slow = asyncio.create_task(bulk(cluster, caller, BulkCall("slow", 0.0, 0, 48, 1.0)))
            await asyncio.sleep(2.0)
            before_s = loop.time()
            for number in range(3):
                assert (await bulk(cluster, caller, BulkCall(f"fast-{number}", 0.0, 0, 48, 0.0))).how == "finished"
                assert (await call(cluster, Call(f"call-{number}", 0.0, 0, (20, number), 30))).how == "finished"
            assert loop.time() - before_s < 2.0
            progress = cluster.bulk.progress["slow"]
            assert progress.produced_bytes < AHEAD_BYTES_MAX + progress.taken_bytes
            assert (await slow).how == "finished"
            assert loop.time() - before_s < 60.0
            assert await wrongs_at_the_end(cluster) == []

    run(main, seed)


async def bulk(cluster: Cluster, caller: Caller, one: BulkCall) -> Outcome:
    outcome = Outcome(one.name)
    await send_bulk(cluster, caller, one, outcome)
    assert check_bulk(one, outcome) == []
    return outcome


# Instances that are passed over


class MoodyEngine(SimEngine):
    """Gives no token to a request whose name says so."""

    async def generate(self, request: PreprocessedRequest, context: Context) -> AsyncGenerator[EngineOutput, None]:
        if context.request_id.startswith("hung"):
            self.begun[context.request_id] = 1
            await asyncio.sleep(1000.0)
        async for output in super().generate(request, context):
            yield output


async def with_one_out(cluster: Cluster) -> int:
    """Have the engine of the first worker get stuck, and be well again. Return its instance, which is out."""
    [caller], worker = cluster.callers(), cluster.workers()[0]
    assert caller.client is not None
    assert worker.runtime is not None
    calls = started([call(cluster, Call(f"stalls-{number}", 0.0, 0, (20, number), 200)) for number in range(4)])
    await asyncio.sleep(1.0)
    engine_of(worker).stick()
    outcomes = await asyncio.gather(*calls)
    assert [outcome.code for outcome in outcomes].count("stalled") == 2
    worker.host.run(_go_on(worker))
    assert caller.client.is_passed_over(worker.runtime.lease.id)
    return worker.runtime.lease.id


async def _go_on(worker: Worker) -> None:
    engine_of(worker).go_on()


async def until_it_is_back(cluster: Cluster, instance_id: int) -> float:
    """Call five times a second until an instance is no longer passed over. Return how long that took."""
    [caller], began_at = cluster.callers(), cluster.loop.time()
    assert caller.client is not None
    number = 0
    while caller.client.is_passed_over(instance_id) and cluster.loop.time() - began_at < 100.0:
        number += 1
        assert (await call(cluster, Call(f"next-{number}", 0.2, 0, (20, number), 3))).how == "finished"
    return cluster.loop.time() - began_at


@pytest.mark.parametrize("seed", range(3))
def test_an_instance_whose_probe_hangs_is_tried_again(seed: int) -> None:
    async def main(loop: SimLoop) -> None:
        patience = StreamTimeouts(first_item_s=600.0, inter_item_s=2.0)
        async with ready_cluster(
            loop, seed, workers=2, callers=1, pace_s=0.02, timeouts=patience, make_engine=MoodyEngine
        ) as cluster:
            out = await with_one_out(cluster)
            await asyncio.sleep(1.0)
            hung = started([call(cluster, Call(f"hung-{n}", 0.0, 0, (9,), 3, leave_after_s=60.0)) for n in range(2)])
            await asyncio.sleep(0.1)
            assert [len(engine_of(worker).begun) for worker in cluster.workers()] == [3, 3]
            assert PROBE_TIMEOUT_S - 2.0 < await until_it_is_back(cluster, out) < PROBE_TIMEOUT_S + 2.0
            await asyncio.gather(*hung)
            assert await wrongs_at_the_end(cluster) == []

    run(main, seed)


@pytest.mark.parametrize("seed", range(3))
def test_an_instance_whose_probe_was_called_off_is_tried_again_at_once(seed: int) -> None:
    async def main(loop: SimLoop) -> None:
        patience = StreamTimeouts(first_item_s=600.0, inter_item_s=2.0)
        async with ready_cluster(
            loop, seed, workers=2, callers=1, pace_s=0.02, timeouts=patience, make_engine=MoodyEngine
        ) as cluster:
            out = await with_one_out(cluster)
            await asyncio.sleep(1.0)
            hung = [Call(f"hung-{number}", 0.0, 0, (9,), 3, leave_after_s=0.5) for number in range(2)]
            assert {outcome.how for outcome in await asyncio.gather(*(call(cluster, one) for one in hung))} == {"left"}
            assert await until_it_is_back(cluster, out) < 1.5
            assert await wrongs_at_the_end(cluster) == []

    run(main, seed)


def test_the_last_instance_is_asked_though_it_could_not_be_reached_just_now() -> None:
    async def main(loop: SimLoop) -> None:
        async with ready_cluster(loop, 0, callers=1) as cluster:
            [worker], [caller] = cluster.workers(), cluster.callers()
            cluster.network.cut(caller.host, worker.host)
            failed = await call(cluster, Call("cut off", 0.0, 0, (20,), 3))
            assert (failed.how, failed.code) == ("failed", "cannot_connect")
            cluster.heal()
            assert (await call(cluster, Call("at once", 0.0, 0, (20,), 3))).how == "finished"
            assert await wrongs_at_the_end(cluster) == []

    run(main, 0)


# Workers that were lost


@pytest.mark.parametrize("router", [RouterConfig(), KV_THAT_QUEUES], ids=["round-robin", "kv with a queue"])
def test_who_has_lost_the_only_worker_is_told_that_there_is_none(router: RouterConfig) -> None:
    async def main(loop: SimLoop) -> None:
        async with ready_cluster(loop, 0, pace_s=1.0, router=router) as cluster:
            [worker], [frontend] = cluster.workers(), cluster.frontends()
            asking = asyncio.create_task(ask(cluster, HttpRequest("one", 0.0, 0, ASK)))
            await asyncio.sleep(0.1)
            cluster.network.reset(worker.host, frontend.host)
            assert (await asking).code == "no_worker_left"
            assert await wrongs_at_the_end(cluster) == []

    run(main, 0)


@pytest.mark.parametrize("another_comes", [False, True])
def test_an_answer_never_goes_back_to_the_worker_that_it_lost(another_comes: bool) -> None:
    learn([ASK])

    async def main(loop: SimLoop) -> None:
        async with ready_cluster(loop, 0, pace_s=0.05) as cluster:
            [worker], [frontend] = cluster.workers(), cluster.frontends()
            asking = asyncio.create_task(ask(cluster, HttpRequest("one", 0.0, 0, ASK)))
            await asyncio.sleep(1.0)
            cluster.network.reset(worker.host, frontend.host)
            await asyncio.sleep(3.0)
            if another_comes:
                cluster.start_worker(0.05)
            outcome = await asking
            assert outcome.wrongs == []
            assert outcome.code == ("" if another_comes else "no_instances")
            assert [engine_of(one).begun for one in cluster.workers()] == [{"one": 1}] * (1 + another_comes)
            assert await wrongs_at_the_end(cluster) == []

    run(main, 0)

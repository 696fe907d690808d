"""The KV router before simulated engines: what it predicts is so, and no load stays booked."""

from __future__ import annotations

import asyncio
import json
import math
from contextlib import AsyncExitStack

import pytest
from tests.llm.kv.scene import until
from tests.llm.kv_router.cluster import BLOCK_SIZE, Cluster, Worker, turns
from tests.llm.kv_router.worker_model import asked

from dynamo._core.errors import Cancelled, ConfigError, DynamoError, InvalidArgument, NoInstances
from dynamo.llm import StopConditions
from dynamo.llm._kv_router.config import KvRouterConfig, PolicyClass
from dynamo.llm._kv_router.router import KvRouter, WorkerOverlap
from dynamo.llm._kv_router.stream import RoutedStream
from dynamo.llm._messages import PreprocessedRequest
from dynamo.llm._routing import RoutingConstraints
from dynamo.llm._wishes import Wishes

PROMPT = list(range(50))
SHORT = StopConditions(max_tokens=4)
FOREVER = StopConditions(max_tokens=1000)


async def answer(stream: RoutedStream) -> tuple[int, int]:
    """Return who answered, and how many tokens of the prompt it had cached."""
    cached = 0
    async for output in stream:
        usage = output.get("completion_usage")
        if isinstance(usage, dict):
            cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    return stream.instance_id, cached


async def ask(router: KvRouter, token_ids: list[int]) -> tuple[int, int]:
    return await answer(await router.generate(token_ids, "mock", SHORT))


async def has_requests(router: KvRouter, num: int) -> None:
    """Wait until a router counts so many requests."""
    async with asyncio.timeout(60):
        while await total_requests(router) != num:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def total_requests(router: KvRouter) -> int:
    return sum(load["active_requests"] for load in await router.get_potential_loads([]))


async def knows(router: KvRouter, token_ids: list[int], blocks: int) -> None:
    """Wait until the router knows that somebody has so many blocks of a prompt."""
    async with asyncio.timeout(60):
        while True:
            found = await router.get_overlap_scores(token_ids)
            if blocks in [one["overlap_blocks"] for one in found["workers"]]:
                return
            await asyncio.sleep(0.001)


async def overlaps(router: KvRouter, adapter: str | None, salt: str | None) -> list[WorkerOverlap]:
    return (await router.get_overlap_scores(PROMPT, lora_name=adapter, cache_namespace=salt))["workers"]


async def two_workers(stack: AsyncExitStack, cluster: Cluster, **options: object) -> list[Worker]:
    workers = [await stack.enter_async_context(cluster.mocker(**options)) for _ in range(2)]  # type: ignore[arg-type]
    return sorted(workers, key=lambda worker: worker.id)


async def test_a_prompt_goes_where_it_is_cached_and_as_much_is_cached_as_predicted() -> None:
    cluster = Cluster()
    async with AsyncExitStack() as stack:
        await two_workers(stack, cluster)
        router = await stack.enter_async_context(cluster.kv_router(num_workers=2))
        first, cached = await ask(router, PROMPT)
        assert cached == 0
        await knows(router, PROMPT, 12)

        for length in (50, 48, 20, 60):
            prompt = list(range(length))
            stream = await router.generate(prompt, "mock", SHORT)
            assert stream.decision is not None
            predicted = stream.decision.predicted_cached_tokens
            assert predicted > 0
            assert await answer(stream) == (first, predicted)

        stats = router.stats
        assert stats.reported_cached_tokens == stats.predicted_cached_tokens > 0
        assert (stats.expected_hits, stats.expected_hits_missed) == (4, 0)


async def test_without_events_it_goes_where_it_was_sent() -> None:
    cluster = Cluster()
    async with AsyncExitStack() as stack:
        await two_workers(stack, cluster)
        config = KvRouterConfig(use_kv_events=False)
        router = await stack.enter_async_context(cluster.kv_router(config, num_workers=2))
        first, _ = await ask(router, PROMPT)
        assert {await ask(router, PROMPT) for _ in range(3)} == {(first, 48)}


async def test_a_prompt_that_was_just_sent_is_expected_there_before_its_event() -> None:
    cluster = Cluster()
    async with AsyncExitStack() as stack:
        await two_workers(stack, cluster)
        config = KvRouterConfig(predicted_ttl_secs=5.0)
        router = await stack.enter_async_context(cluster.kv_router(config, num_workers=2))
        route = await router.place(asked(PROMPT))
        ids = [load["worker_id"] for load in await router.get_potential_loads([])]
        first = route.choose(ids)
        found = await router.get_overlap_scores(PROMPT)
        assert found["workers"] == [{"worker_id": first, "dp_rank": 0, "overlap_blocks": 12}]
        route.close()


async def test_a_rank_that_has_the_prompt_cached_is_named_in_the_request() -> None:
    cluster = Cluster()
    async with cluster.mocker(dp_size=3), cluster.kv_router() as router:
        await ask(router, PROMPT)
        await knows(router, PROMPT, 12)
        (known,) = (await router.get_overlap_scores(PROMPT))["workers"]
        for _ in range(3):
            stream = await router.generate(PROMPT, "mock", SHORT)
            assert stream.decision is not None
            assert stream.decision.dp_rank == known["dp_rank"]
            assert await answer(stream) == (known["worker_id"], 48)


async def test_constraints_and_names_decide_where_a_request_goes() -> None:
    cluster = Cluster()
    async with AsyncExitStack() as stack:
        plain = await stack.enter_async_context(cluster.mocker())
        fast = await stack.enter_async_context(cluster.mocker(taints=["fast"]))
        router = await stack.enter_async_context(cluster.kv_router(num_workers=2))
        wishes = RoutingConstraints(required_taints=frozenset({"fast"}))
        for _ in range(3):
            stream = await router.generate(PROMPT, "mock", SHORT, routing_constraints=wishes)
            assert (await answer(stream))[0] == fast.id
        named = await router.generate(PROMPT, "mock", SHORT, worker_id=plain.id)
        assert (await answer(named))[0] == plain.id


async def test_a_stream_that_is_closed_gives_its_load_back_and_ends_the_work() -> None:
    cluster = Cluster()
    async with cluster.mocker(speedup_ratio=1.0), cluster.kv_router() as router:
        stream = await router.generate(PROMPT, "mock", FOREVER)
        await anext(stream)
        assert await total_requests(router) == 1
        await stream.aclose()
        assert await total_requests(router) == 0


async def test_a_stream_that_is_dropped_gives_its_load_back() -> None:
    cluster = Cluster()
    async with cluster.mocker(speedup_ratio=1.0), cluster.kv_router() as router:
        stream: RoutedStream | None = await router.generate(PROMPT, "mock", FOREVER)
        stream = None  # noqa: F841
        await asyncio.sleep(0)
        assert await total_requests(router) == 0


async def test_a_request_that_fails_gives_its_load_back() -> None:
    cluster = Cluster()
    async with cluster.mocker(), cluster.kv_router() as router:
        with pytest.raises(InvalidArgument):
            await answer(await router.generate(list(range(5000)), "mock", SHORT))
        assert await total_requests(router) == 0


async def test_where_no_worker_is_there_it_is_said_at_once() -> None:
    cluster = Cluster()
    async with cluster.kv_router(num_workers=0) as router:
        with pytest.raises(NoInstances):
            await router.generate(PROMPT, "mock", SHORT)
        with pytest.raises(NoInstances):
            await router.best_worker(PROMPT, request_id="r")


async def test_the_best_worker_is_booked_for_a_request_until_it_is_freed() -> None:
    cluster = Cluster()
    async with AsyncExitStack() as stack:
        workers = await two_workers(stack, cluster)
        router = await stack.enter_async_context(cluster.kv_router(num_workers=2))
        first = await router.best_worker(PROMPT, request_id="a")
        second = await router.best_worker(PROMPT, request_id="b")
        assert sorted([first, second]) == [(worker.id, 0, 0) for worker in workers]

        await router.mark_prefill_complete("a")
        loads = {load["worker_id"]: load for load in await router.get_potential_loads(PROMPT)}
        assert loads[first[0]] == {
            "worker_id": first[0], "dp_rank": 0, "potential_prefill_tokens": 50,
            "potential_decode_blocks": 14, "active_requests": 1,
        }  # fmt: skip
        assert loads[second[0]]["potential_prefill_tokens"] == 100
        for request_id in ("a", "b", "unknown"):
            await router.free(request_id)
        assert await total_requests(router) == 0


async def test_a_look_at_the_best_worker_books_nothing() -> None:
    cluster = Cluster()
    async with cluster.mocker() as worker, cluster.kv_router() as router:
        assert await router.best_worker(PROMPT) == (worker.id, 0, 0)
        assert await total_requests(router) == 0


async def test_nor_does_it_where_requests_wait_and_it_does_not_wait_itself() -> None:
    cluster = Cluster()
    config = KvRouterConfig(queue_threshold=0.01)
    async with cluster.mocker() as worker, cluster.kv_router(config) as router:
        for request_id in (None, "busy", None):
            assert await router.best_worker(PROMPT, request_id=request_id) == (worker.id, 0, 0)
        assert await total_requests(router) == 1
        assert router.queue_lengths() == {"default": 0}


async def test_a_request_that_is_booked_again_does_not_wait_for_itself() -> None:
    cluster = Cluster()
    async with cluster.mocker(), cluster.kv_router(KvRouterConfig(queue_threshold=0.01)) as router:
        for _ in range(3):
            async with asyncio.timeout(60):
                await router.best_worker(PROMPT, request_id="a")
        assert await total_requests(router) == 1


async def test_a_router_that_is_closed_books_nothing_more() -> None:
    cluster = Cluster()
    async with cluster.mocker(), cluster.kv_router(KvRouterConfig(queue_threshold=0.01)) as router:
        await router.best_worker(PROMPT, request_id="a")
        waiting = [asyncio.create_task(router.best_worker(PROMPT, request_id=request_id)) for request_id in "bc"]
        await turns()
        await router.close()  # frees the first one, so that it is the turn of another
        for task in waiting:
            with pytest.raises(NoInstances, match="closed"):
                await task
        for request_id in ("d", None):
            with pytest.raises(NoInstances, match="is closed"):
                await router.best_worker(PROMPT, request_id=request_id)
        with pytest.raises(NoInstances, match="is closed"):
            await router.generate(PROMPT, "mock", SHORT)
        assert await total_requests(router) == 0


async def test_a_request_as_workers_take_it_has_the_cache_and_the_wishes_that_it_names() -> None:
    cluster = Cluster()
    async with AsyncExitStack() as stack:
        workers = await two_workers(stack, cluster)
        router = await stack.enter_async_context(cluster.kv_router(KvRouterConfig(use_kv_events=False), num_workers=2))
        for worker in workers:
            request = PreprocessedRequest(
                model="mock", token_ids=PROMPT, stop_conditions=SHORT, lora_name="adapter", cache_salt=f"{worker.id}",
                routing=Wishes(backend_instance_id=worker.id),
            )  # fmt: skip
            await answer(await router.generate_from_request(request))
        for worker in workers:
            found = await router.get_overlap_scores(PROMPT, lora_name="adapter", cache_namespace=f"{worker.id}")
            assert found["workers"] == [{"worker_id": worker.id, "dp_rank": 0, "overlap_blocks": 12}]
        assert (await router.get_overlap_scores(PROMPT))["workers"] == []


async def test_a_look_may_be_taken_for_a_decision_by_a_router_without_events() -> None:
    cluster = Cluster()
    async with cluster.mocker() as worker, cluster.kv_router(KvRouterConfig(use_kv_events=False)) as router:
        assert await router.best_worker(PROMPT, update_indexer=True) == (worker.id, 0, 0)
        assert await router.best_worker(PROMPT) == (worker.id, 0, 12)
        events = json.loads(await router.dump_events())
        assert sum(len(event["event"]["data"]["stored"]["blocks"]) for event in events) == 12


async def test_a_request_that_is_booked_again_is_no_longer_where_it_was() -> None:
    cluster = Cluster()
    async with cluster.mocker(), cluster.kv_router() as router:
        for _ in range(3):
            await router.best_worker(PROMPT, request_id="a")
        assert await total_requests(router) == 1


async def test_what_is_known_can_be_had_as_events() -> None:
    cluster = Cluster()
    async with cluster.mocker() as worker, cluster.kv_router() as router:
        await ask(router, PROMPT)
        await knows(router, PROMPT, 12)
        events = json.loads(await router.dump_events())
        assert {event["worker_id"] for event in events} == {worker.id}


async def test_a_router_that_knows_loads_only_listens_to_no_events() -> None:
    cluster = Cluster()
    async with cluster.mocker(), cluster.kv_router(KvRouterConfig(overlap_score_credit=0.0)) as router:
        await ask(router, PROMPT)
        assert await router.dump_events() == "[]"


async def test_two_routers_count_each_others_requests() -> None:
    cluster = Cluster()
    config = KvRouterConfig(router_replica_sync=True)
    async with AsyncExitStack() as stack:
        await two_workers(stack, cluster)
        one = await stack.enter_async_context(cluster.kv_router(config, num_workers=2))
        other = await stack.enter_async_context(cluster.kv_router(config, num_workers=2))
        await one.best_worker(PROMPT, request_id="a")

        await has_requests(other, 1)
        assert await other.get_potential_loads(PROMPT) == await one.get_potential_loads(PROMPT)
        await one.free("a")
        await has_requests(other, 0)


async def test_a_worker_that_has_gone_is_no_candidate() -> None:
    cluster = Cluster()
    async with cluster.mocker() as stays, cluster.kv_router() as router:
        async with cluster.mocker():
            await until(lambda: router.num_workers == 2)
        await until(lambda: router.num_workers == 1)
        assert (await ask(router, PROMPT))[0] == stays.id


async def test_the_last_decisions_are_kept() -> None:
    cluster = Cluster()
    async with cluster.mocker() as worker, cluster.kv_router() as router:
        await ask(router, PROMPT)
        (decision,) = router.decisions.recent()
        assert (decision.worker_id, decision.num_blocks) == (worker.id, 13)
        assert router.stats.decisions == 1
        assert router.stats.total.count == 1


@pytest.mark.parametrize("block_size", [0, -1, 1.5, "16"])
async def test_a_block_size_that_is_none_is_refused(block_size: object) -> None:
    async with Cluster().process() as runtime:
        with pytest.raises(InvalidArgument, match="block_size"):
            KvRouter(runtime.endpoint("a.b.c"), block_size)  # type: ignore[arg-type]


async def test_a_router_that_was_not_started_has_counted_nothing_and_says_so() -> None:
    async with Cluster().process() as runtime:
        router = KvRouter(runtime.endpoint("a.b.c"), BLOCK_SIZE)
        with pytest.raises(DynamoError, match="was not started"):
            _ = router.decisions
        await router.close()


async def test_the_first_question_starts_a_router() -> None:
    cluster = Cluster()
    async with cluster.mocker() as worker, cluster.process() as runtime:
        router = KvRouter(runtime.endpoint("test.worker.generate"), BLOCK_SIZE)
        found = await asyncio.gather(*(router.best_worker(PROMPT) for _ in range(3)))
        assert found == [(worker.id, 0, 0)] * 3
        assert (await ask(router, PROMPT))[0] == worker.id
        await router.close()
        with pytest.raises(NoInstances, match="is closed"):
            await router.best_worker(PROMPT)


async def test_whoever_gives_up_while_a_router_starts_keeps_nobody_else_from_it() -> None:
    cluster = Cluster()
    async with cluster.mocker() as worker, cluster.process() as runtime:
        router = KvRouter(runtime.endpoint("test.worker.generate"), BLOCK_SIZE)
        asking = [asyncio.create_task(router.best_worker(PROMPT)) for _ in range(2)]
        await asyncio.sleep(0)
        asking[0].cancel()
        assert await asking[1] == (worker.id, 0, 0)
        await router.close()


async def test_a_router_that_is_closed_while_it_starts_follows_nobody() -> None:
    cluster = Cluster()
    async with cluster.mocker(), cluster.process() as runtime:
        router = KvRouter(runtime.endpoint("test.worker.generate"), BLOCK_SIZE)
        starting = asyncio.create_task(router.start())
        await asyncio.sleep(0)
        await router.close()
        with pytest.raises(NoInstances, match="is closed"):
            await starting


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (None, "exact"),
        (KvRouterConfig(use_kv_events=False), "approximate"),
        (KvRouterConfig(overlap_score_credit=0.0), "none"),
    ],
)
async def test_the_configuration_says_by_what_a_router_knows_what_is_cached(
    config: KvRouterConfig | None, kind: str
) -> None:
    async with Cluster().process() as runtime:
        assert KvRouter(runtime.endpoint("a.b.c"), BLOCK_SIZE, config).index_kind == kind


async def test_two_policies_are_one_too_many() -> None:
    async with Cluster().process() as runtime:
        with pytest.raises(ConfigError, match="two policies"):
            KvRouter(runtime.endpoint("a.b.c"), BLOCK_SIZE, KvRouterConfig(policy="a:b"), policy=lambda candidate: 1.0)


async def test_a_policy_of_ones_own_decides() -> None:
    cluster = Cluster()
    async with AsyncExitStack() as stack:
        workers = await two_workers(stack, cluster)
        runtime = await stack.enter_async_context(cluster.process())
        endpoint = runtime.endpoint("test.worker.generate")
        router = await KvRouter.create(endpoint, BLOCK_SIZE, policy=lambda candidate: -candidate.worker_id)
        stack.push_async_callback(router.close)
        await until(lambda: router.num_workers == 2)
        assert {(await ask(router, PROMPT))[0] for _ in range(3)} == {workers[-1].id}


async def test_a_prompt_with_another_salt_or_adapter_is_another_prompt() -> None:
    cluster = Cluster()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(cluster.mocker())
        router = await stack.enter_async_context(cluster.kv_router())
        for salt, adapter in ((None, None), ("a", None), (None, "a"), ("b", "a")):
            named = {"lora_name": adapter, "cache_namespace": salt}
            request = {"model": "mock", "token_ids": PROMPT, "stop_conditions": {"max_tokens": 1}}
            sent = [router.generate(PROMPT, "mock", SHORT, **named)]  # type: ignore[arg-type]
            sent.append(router.generate_from_request(request | {"lora_name": adapter, "cache_salt": salt}))
            found = []
            for sending in sent:
                stream = await sending
                _, cached = await answer(stream)
                assert stream.decision is not None
                found.append((stream.decision.predicted_cached_tokens, cached))
                async with asyncio.timeout(60):
                    while not (await overlaps(router, adapter, salt)):  # noqa: ASYNC110
                        await asyncio.sleep(0.001)
            assert found == [(0, 0), (48, 48)]


async def test_what_makes_no_sense_is_refused_whether_or_not_anybody_waits() -> None:
    cluster = Cluster()
    async with cluster.mocker(), cluster.kv_router(KvRouterConfig(policy_classes=(PolicyClass("batch"),))) as router:
        with pytest.raises(InvalidArgument, match="no policy class 'urgent'; there are default, batch"):
            await router.best_worker(PROMPT, policy_class="urgent")
        for request_id in (None, "mine"):
            with pytest.raises(InvalidArgument, match="priority_jump is nan"):
                await router.best_worker(PROMPT, request_id=request_id, priority_jump=math.nan)
            with pytest.raises(InvalidArgument, match="a weight of the taints"):
                constraints = RoutingConstraints(preferred_taints={"a": math.inf})
                await router.best_worker(PROMPT, request_id=request_id, routing_constraints=constraints)
            await router.best_worker(PROMPT, request_id=request_id, policy_class="batch")
        with pytest.raises(InvalidArgument, match="num_tokens is -5"):
            await router.note_tokens("mine", -5)


async def test_whoever_waits_under_a_name_waits_no_longer_once_it_is_freed_or_asked_for_again() -> None:
    cluster = Cluster()
    async with cluster.mocker(), cluster.kv_router(KvRouterConfig(queue_threshold=0.01)) as router:
        await router.best_worker(PROMPT, request_id="first")
        waiting = []
        for _ in range(2):
            waiting.append(asyncio.create_task(router.best_worker(PROMPT, request_id="second")))
            await turns()
        with pytest.raises(Cancelled, match="second was freed while it waited"):
            await waiting[0]
        assert not waiting[1].done()
        await router.free("second")
        with pytest.raises(Cancelled, match="second was freed while it waited"):
            await waiting[1]
        await router.free("first")
        assert await total_requests(router) == 0

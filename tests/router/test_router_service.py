"""A router of its own: what its endpoints answer, and what it knows of requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from tests.llm.kv_router.cluster import ENDPOINT, Cluster, Worker
from tests.router.scene import DEADLINE_S, PROMPT, Asker, Item, asking, request, routing, until_waiting

from dynamo._core.context import Context
from dynamo._core.errors import Cancelled, DeadlineExceeded, InvalidArgument, NoInstances, NotFound
from dynamo.llm._routing import RouterConfigOverride, RoutingConstraints
from dynamo.router._messages import read_query


async def two_workers(stack: AsyncExitStack, cluster: Cluster, **options: object) -> list[Worker]:
    return [await stack.enter_async_context(cluster.mocker(**options)) for _ in range(2)]  # type: ignore[arg-type]


def who(items: list[Item]) -> dict[str, int]:
    """Who answered, by the first of the outputs, and no other."""
    assert [item for item in items[1:] if "routed_to" in item] == []
    routed_to = items[0]["routed_to"]
    assert isinstance(routed_to, dict)
    return routed_to


async def test_a_prompt_goes_to_the_worker_that_has_it_and_the_answer_says_who_that_is() -> None:
    cluster = Cluster()
    async with AsyncExitStack() as stack:
        ids = {worker.id for worker in await two_workers(stack, cluster)}
        asker = await stack.enter_async_context(asking(cluster))
        first = who(await asker.generate(request(PROMPT)))
        assert first["overlap_blocks"] == 0
        assert first["worker_id"] in ids
        await asker.until_cached(PROMPT, 12)
        for _ in range(4):
            assert who(await asker.generate(request(PROMPT))) == {**first, "overlap_blocks": 12}


async def test_what_is_cached_for_one_tenant_is_found_for_no_other() -> None:
    cluster = Cluster()
    async with cluster.mocker(), asking(cluster) as asker:
        await asker.generate(request(PROMPT, cache_salt="mine"))
        async with asyncio.timeout(DEADLINE_S):
            while who(await asker.generate(request(PROMPT, cache_salt="mine")))["overlap_blocks"] != 12:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        for salt in (None, "other"):
            found = await asker.fields("best_worker", {"token_ids": PROMPT, "cache_salt": salt})
            assert found["overlap_blocks"] == 0


async def test_all_who_ask_share_one_view_of_the_load() -> None:
    cluster = Cluster()
    async with AsyncExitStack() as stack:
        await two_workers(stack, cluster)
        one = await stack.enter_async_context(asking(cluster))
        other = Asker(await stack.enter_async_context(cluster.process()))
        mine = await one.fields("best_worker", {"token_ids": PROMPT, "request_id": "mine"})
        theirs = await other.fields("best_worker", {"token_ids": list(range(100, 150)), "request_id": "theirs"})
        assert mine["worker_id"] != theirs["worker_id"]
        assert sorted((await one.num_requests()).values()) == [1, 1]


async def test_routers_that_tell_each_other_count_the_same() -> None:
    cluster = Cluster()
    async with AsyncExitStack() as stack:
        await two_workers(stack, cluster)
        one = await stack.enter_async_context(asking(cluster, router_replica_sync=True))
        other = await stack.enter_async_context(asking(cluster, router_replica_sync=True, component="second"))
        await one.ask("best_worker", {"token_ids": PROMPT, "request_id": "mine"})
        await other.until_requests(1)
        assert await other.num_requests() == await one.num_requests()
        await one.ask("free", {"request_id": "mine"})
        await other.until_requests(0)


async def test_what_is_booked_counts_until_it_is_freed() -> None:
    cluster = Cluster()
    async with cluster.mocker(), asking(cluster) as asker:
        await asker.ask("best_worker", {"token_ids": PROMPT, "request_id": "mine"})
        (load,) = await asker.loads()
        assert (load["potential_prefill_tokens"], load["active_requests"]) == (50, 1)
        known = {"request_id": "mine", "is_booked": True}
        assert await asker.ask("mark_prefill_complete", {"request_id": "mine"}) == known
        (load,) = await asker.loads()
        assert (load["potential_prefill_tokens"], load["active_requests"]) == (0, 1)
        assert await asker.ask("note_tokens", {"request_id": "mine", "num_tokens": 3}) == known
        assert await asker.ask("free", {"request_id": "mine"}) == known
        assert list((await asker.num_requests()).values()) == [0]


@pytest.mark.parametrize("endpoint", ["mark_prefill_complete", "note_tokens", "free"])
async def test_a_booking_that_is_not_known_is_no_error_and_said(endpoint: str) -> None:
    cluster = Cluster()
    async with cluster.mocker(), asking(cluster) as asker:
        assert await asker.ask(endpoint, {"request_id": "x"}) == {"request_id": "x", "is_booked": False}


async def test_what_is_never_freed_is_given_back_after_a_time_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster()
    async with cluster.mocker(), asking(cluster, booking_timeout_s=0.2) as asker:
        await asker.ask("best_worker", {"token_ids": PROMPT, "request_id": "mine"})
        await asker.until_requests(0)
        assert await asker.ask("free", {"request_id": "mine"}) == {"request_id": "mine", "is_booked": False}
    assert "1 bookings are given back" in caplog.text


async def test_asking_where_books_nothing() -> None:
    cluster = Cluster()
    async with cluster.mocker() as worker, asking(cluster) as asker:
        found = await asker.ask("best_worker", {"token_ids": PROMPT})
        assert found == {"worker_id": worker.id, "dp_rank": 0, "overlap_blocks": 0}
        assert await asker.ask("best_worker_id", PROMPT) == worker.id
        assert await asker.num_requests() == {worker.id: 0}


async def test_who_names_a_worker_cannot_ask_which_is_best() -> None:
    cluster = Cluster()
    async with cluster.mocker() as worker, asking(cluster) as asker:
        with pytest.raises(InvalidArgument, match="leave one of both out"):
            await asker.ask("best_worker", {"token_ids": PROMPT, "routing": {"backend_instance_id": worker.id}})


async def test_a_request_that_names_its_worker_goes_there() -> None:
    cluster = Cluster()
    async with AsyncExitStack() as stack:
        workers = await two_workers(stack, cluster)
        asker = await stack.enter_async_context(asking(cluster))
        for worker in workers * 2:
            wishes = {"backend_instance_id": worker.id}
            assert who(await asker.generate(request(PROMPT, routing=wishes)))["worker_id"] == worker.id


def test_all_that_a_request_wishes_reaches_the_router() -> None:
    wishes = {
        "backend_instance_id": 5, "dp_rank": 1, "priority": 2.5, "strict_priority": 3, "policy_class": "batch",
        "session_id": "s", "routing_constraints": {"required_taints": ["a"], "preferred_taints": {"b": 1.0}},
    }  # fmt: skip
    of_cache = {"lora_name": "l", "cache_salt": "c"}
    override = {"router_temperature": 0.5}
    asked = read_query({"token_ids": [1], "routing": wishes, "router_config_override": override, **of_cache}).asked(
        None, Context()
    )
    assert (asked.pinned_instance, asked.pinned_dp_rank) == (5, 1)
    assert (asked.priority_jump, asked.strict_priority, asked.policy_class) == (2.5, 3, "batch")
    assert (asked.session_id, asked.lora_name, asked.cache_namespace) == ("s", "l", "c")
    assert asked.constraints == RoutingConstraints(frozenset("a"), {"b": 1.0})
    assert asked.override == RouterConfigOverride(router_temperature=0.5)


async def test_it_says_why_a_request_went_where_it_went() -> None:
    cluster = Cluster()
    async with cluster.mocker() as worker, asking(cluster) as asker:
        await asker.generate(request(PROMPT), Context("mine"))
        (decision,) = (await asker.fields("explain", {"request_id": "mine"}))["decisions"]
        assert (decision["request_id"], decision["worker_id"]) == ("mine", worker.id)
        await asker.generate(request(PROMPT), Context("next"))
        recent = await asker.fields("explain", {"limit": 1})
        assert [one["request_id"] for one in recent["decisions"]] == ["next"]
        assert recent["warnings"] == []
        with pytest.raises(NotFound, match="nobody"):
            await asker.ask("explain", {"request_id": "nobody"})
        with pytest.raises(InvalidArgument, match="limit"):
            await asker.ask("explain", {"limit": 0})


@pytest.mark.parametrize(
    ("endpoint", "asked", "said"),
    [
        ("generate", {"model": "mock"}, "token_ids"),
        ("generate", "hello", "not str"),
        ("generate", {"token_ids": ["a"]}, "token_ids"),
        ("best_worker", {"token_ids": [1], "routing": {"strict_priority": "high"}}, "strict_priority"),
        ("best_worker", {"token_ids": [1], "router_config_override": {"temperature": 1}}, "temperature"),
        ("free", {}, "request_id"),
        ("generate", [1, 2], "a mapping, as workers take it, not list"),
        ("note_tokens", {"request_id": "r", "num_tokens": -(10**9)}, "num_tokens"),
        ("note_tokens", {"request_id": "r", "num_tokens": 2**24 + 1}, "num_tokens"),
        ("free", {"request_id": "r" * 257}, "request_id"),
        ("best_worker", {"token_ids": [1], "request_id": "r" * 257}, "request_id"),
        ("best_worker", {"token_ids": [1] * 2049}, "has 2049 tokens, and the workers take 2048"),
        ("generate", {"token_ids": [1] * 2049}, "has 2049 tokens, and the workers take 2048"),
        ("get_overlap_scores", [1] * 2049, "has 2049 tokens, and the workers take 2048"),
        ("get_potential_loads", [1] * 2049, "has 2049 tokens, and the workers take 2048"),
    ],
)
async def test_a_request_that_makes_no_sense_is_refused_with_the_reason(
    endpoint: str, asked: object, said: str
) -> None:
    cluster = Cluster()
    async with cluster.mocker(), asking(cluster) as asker:
        with pytest.raises(InvalidArgument, match=said):
            await asker.ask(endpoint, asked)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "wishes",
    [
        {"priority": NAN},
        {"priority": INF},
        {"priority": 2.0**31},
        {"strict_priority": -1},
        {"strict_priority": 2**32},
        {"session_id": "s" * 257},
        {"policy_class": "c" * 257},
        {"policy_class": "unknown"},
        {"routing_constraints": {"required_taints": [str(number) for number in range(65)]}},
        {"routing_constraints": {"required_taints": ["t" * 257]}},
        {"routing_constraints": {"preferred_taints": {str(number): 1.0 for number in range(65)}}},
        {"routing_constraints": {"preferred_taints": {"a": NAN}}},
        {"routing_constraints": {"preferred_taints": {"a": INF}}},
        {"routing_constraints": {"preferred_taints": {"a": 100.5}}},
        {"backend_instance_id": -1},
        {"dp_rank": 1024},
    ],
)
async def test_wishes_beyond_what_a_frontend_lets_through_are_refused(wishes: dict[str, object]) -> None:
    cluster = Cluster()
    async with cluster.mocker(), asking(cluster) as asker:
        with pytest.raises(InvalidArgument, match=r"the router cannot read|policy class"):
            await asker.generate(request(PROMPT, routing=wishes))


async def test_who_waits_under_a_name_and_is_freed_is_never_booked() -> None:
    cluster = Cluster()
    async with cluster.mocker(), routing(cluster, router_queue_threshold=0.01) as router, cluster.process() as runtime:
        asker = Asker(runtime)
        await asker.there()
        await asker.ask("best_worker", {"token_ids": PROMPT, "request_id": "first"})
        waiting = asyncio.create_task(asker.ask("best_worker", {"token_ids": PROMPT, "request_id": "second"}))
        await until_waiting(router, 1)
        await asker.ask("free", {"request_id": "second"})
        async with asyncio.timeout(DEADLINE_S):
            with pytest.raises(Cancelled, match="second was freed while it waited"):
                await waiting
        await asker.ask("free", {"request_id": "first"})
        assert list((await asker.num_requests()).values()) == [0]
        assert await asker.ask("free", {"request_id": "second"}) == {"request_id": "second", "is_booked": False}


async def test_the_request_is_passed_on_as_it_is() -> None:
    cluster = Cluster()
    sent = request(PROMPT, extra_args={"a": 1}, of_a_newer_client=[1, 2])

    async def generate(request: object) -> AsyncIterator[object]:
        yield {"token_ids": [7], "told": request}

    async with cluster.process() as runtime, asking(cluster, block_size=4) as asker:
        await runtime.endpoint(ENDPOINT).serve(generate)
        async with asyncio.timeout(DEADLINE_S):
            while not await asker.num_requests():  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        (item,) = await asker.generate(sent)
    assert item["told"] == sent


async def test_who_loses_interest_ends_the_work_and_gives_the_load_back() -> None:
    cluster = Cluster()
    async with cluster.mocker(speedup_ratio=1.0) as worker, asking(cluster) as asker:
        stream = await asker.send(request(PROMPT, max_tokens=1500))
        assert await stream.batch()
        assert await asker.num_requests() == {worker.id: 1}
        await stream.aclose()
        await asker.until_requests(0)
        async with asyncio.timeout(DEADLINE_S):
            while worker.engine.num_requests_running:  # noqa: ASYNC110
                await asyncio.sleep(0.001)


async def test_the_deadline_of_a_request_is_that_of_its_worker() -> None:
    cluster = Cluster()
    async with cluster.mocker(speedup_ratio=1.0) as worker, asking(cluster) as asker:
        deadline = asyncio.get_running_loop().time() + 0.3
        with pytest.raises(DeadlineExceeded):
            await asker.generate(request(PROMPT, max_tokens=1500), Context(deadline=deadline))
        await asker.until_requests(0)
        async with asyncio.timeout(DEADLINE_S):
            while worker.engine.num_requests_running:  # noqa: ASYNC110
                await asyncio.sleep(0.001)


async def test_without_a_worker_it_says_whom_it_waits_for() -> None:
    cluster = Cluster()
    async with asking(cluster, block_size=4) as asker:
        for endpoint in ("generate", "best_worker"):
            with pytest.raises(NoInstances, match="nobody serves test/worker/generate"):
                await asker.ask(endpoint, {"token_ids": PROMPT})


async def test_an_answer_that_has_begun_is_finished_before_the_router_ends() -> None:
    cluster = Cluster()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(cluster.mocker(speedup_ratio=20.0))
        asker = Asker(await stack.enter_async_context(cluster.process()))
        async with routing(cluster) as runtime:
            await asker.there()
            stream = await asker.send(request(PROMPT, max_tokens=100))
            items = await stream.batch()
            runtime.shutdown()
            items += [item async for item in stream]
    assert items[-1]["finish_reason"] == "length"
    assert sum(len(item["token_ids"]) for item in items) == 100  # type: ignore[arg-type,misc]

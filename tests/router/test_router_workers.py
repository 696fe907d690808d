"""Which instances a router of its own sends to, and what frontends are told of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

import pytest
from tests.llm.kv.scene import until
from tests.llm.kv_router.cluster import ENDPOINT, Cluster
from tests.router.scene import DEADLINE_S, PROMPT, asking, put_card, request, routing

from dynamo._core.address import MODEL_CARDS
from dynamo._core.discovery.base import Change, Lease, Synced
from dynamo._core.discovery.memory import MemoryDiscovery
from dynamo._core.errors import ConfigError
from dynamo.llm._model_card import ModelCard, ModelInput
from dynamo.router._config import RouterOptions
from dynamo.router._service import serve_router
from dynamo.router._workers import EndpointWorkers
from dynamo.runtime import DistributedRuntime


async def says_who(request: object) -> AsyncIterator[object]:
    yield {"token_ids": [1]}


@asynccontextmanager
async def instance(cluster: Cluster, **card: object) -> AsyncIterator[int]:
    """An instance of the workers' endpoint, with this in its model card."""
    async with cluster.process() as runtime:
        endpoint = runtime.endpoint(ENDPOINT)
        served = await endpoint.serve(says_who)
        await put_card(endpoint, **card)
        yield served.instance_id


async def cards(runtime: DistributedRuntime, prefix: str) -> list[ModelCard]:
    found = await runtime.discovery.get_prefix(f"v1/mdc/{prefix}")
    return [ModelCard.from_json(value) for value in found.values()]


async def until_cards(runtime: DistributedRuntime, prefix: str, num: int) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while len(await cards(runtime, prefix)) != num:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def until_ready(runtime: DistributedRuntime, expected: bool) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while (await runtime.health.is_ready()).is_good is not expected:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def logged(caplog: pytest.LogCaptureFixture, said: str) -> Callable[[], bool]:
    return lambda: said in caplog.text


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ({"kv_cache_block_size": 64}, "its KV cache block size is 64, and that of this router is 4"),
        ({"display_name": "other"}, "its model is other, and that of the workers that are there is mock"),
        ({"context_length": 5}, "its context length is 5, and that of the workers that are there is 2048"),
        ({"model_input": ModelInput.Text}, "it takes text, and this router needs workers that take tokens"),
    ],
)
async def test_a_worker_that_differs_gets_nothing_and_the_log_says_why(
    card: dict[str, object], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = Cluster()
    async with instance(cluster) as id, asking(cluster) as asker, instance(cluster, **card):
        await until(logged(caplog, said))
        assert await asker.num_requests() == {id: 0}
        for _ in range(3):
            (item,) = await asker.generate(request(PROMPT))
            assert item["routed_to"] == {"worker_id": id, "dp_rank": 0, "overlap_blocks": 0}


async def test_a_worker_that_differs_is_taken_once_those_that_it_differs_from_are_gone() -> None:
    cluster = Cluster()
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(AsyncExitStack())
        old = await first.enter_async_context(instance(cluster))
        asker = await stack.enter_async_context(asking(cluster))
        new = await stack.enter_async_context(instance(cluster, context_length=5))
        assert await asker.num_requests() == {old: 0}
        await first.aclose()
        async with asyncio.timeout(DEADLINE_S):
            while await asker.num_requests() != {new: 0}:  # noqa: ASYNC110
                await asyncio.sleep(0.001)


async def test_a_block_size_that_no_worker_has_is_refused_with_both_values() -> None:
    cluster = Cluster()
    async with instance(cluster, kv_cache_block_size=64), cluster.process() as runtime:
        with pytest.raises(ConfigError, match="its KV cache block size is 64, and that of this router is 16"):
            await serve_router(runtime, RouterOptions(endpoint=ENDPOINT, block_size=16))


async def test_it_waits_for_a_first_worker_and_says_where_others_are(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster()
    async with cluster.process() as runtime:
        await put_card(runtime.endpoint("test.wrocker.generate"))
        async with routing(cluster):
            await until(
                logged(caplog, "nobody serves test/worker/generate; there are workers at test/wrocker/generate")
            )
            async with instance(cluster):
                client = await runtime.endpoint("test.router.generate").client()
                await client.wait_for_instances(timeout_s=DEADLINE_S)


async def test_instances_without_model_cards_need_a_block_size(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster()
    async with cluster.process() as runtime, cluster.process() as late:
        await runtime.endpoint(ENDPOINT).serve(says_who)
        serving = asyncio.create_task(serve_router(late, RouterOptions(endpoint=ENDPOINT)))
        await until(logged(caplog, "no instance of test/worker/generate has a model card (1 are there)"))
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def test_frontends_are_told_of_a_router_in_another_namespace() -> None:
    cluster = Cluster()
    async with cluster.mocker(), asking(cluster, namespace="front") as asker:
        await until_cards(asker.runtime, "front/router/generate", 1)
        (card,) = await cards(asker.runtime, "front/router/generate")
        (its,) = await cards(asker.runtime, "test/worker/generate")
        assert (card.display_name, card.kv_cache_block_size) == (its.display_name, its.kv_cache_block_size)
        assert card.runtime_config == {"routes_to": "test/worker/generate"}


async def test_frontends_are_told_what_all_of_a_routers_workers_can_do() -> None:
    cluster = Cluster()

    async def told() -> list[str] | None:
        (card,) = await cards(asker.runtime, "front")
        return card.capabilities

    async with asyncio.timeout(DEADLINE_S), instance(cluster), asking(cluster, namespace="front") as asker:
        await until_cards(asker.runtime, "front", 1)
        assert await told() is None
        async with instance(cluster, capabilities=["seed", "logprobs"]):
            while await told() != ["logprobs", "seed"]:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
            async with instance(cluster, capabilities=["seed"]):
                while await told() != ["seed"]:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
            while await told() != ["logprobs", "seed"]:  # noqa: ASYNC110
                await asyncio.sleep(0.005)


async def test_frontends_are_not_told_of_a_router_beside_its_workers(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    cluster = Cluster()
    async with cluster.mocker(), asking(cluster) as asker:
        await until(logged(caplog, "frontends are not told of this router, because they see its workers"))
        assert len(await cards(asker.runtime, "")) == 1


async def test_the_model_is_listed_as_long_as_there_is_a_worker() -> None:
    cluster = Cluster()
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(AsyncExitStack())
        await first.enter_async_context(cluster.mocker())
        asker = await stack.enter_async_context(asking(cluster, namespace="front"))
        await until_cards(asker.runtime, "front", 1)
        await first.aclose()
        await until_cards(asker.runtime, "front", 0)
        await stack.enter_async_context(cluster.mocker())
        await until_cards(asker.runtime, "front", 1)


async def test_the_model_is_no_longer_listed_when_the_router_has_ended() -> None:
    cluster = Cluster()
    async with cluster.mocker(), cluster.process() as runtime:
        async with routing(cluster, namespace="front"):
            await until_cards(runtime, "front", 1)
        assert await cards(runtime, "front") == []


async def test_it_is_ready_while_it_has_a_worker() -> None:
    cluster = Cluster()
    async with AsyncExitStack() as stack:
        worker = await stack.enter_async_context(AsyncExitStack())
        await worker.enter_async_context(cluster.mocker())
        router = await stack.enter_async_context(routing(cluster, block_size=4))
        await until_ready(router, True)
        await worker.aclose()
        await until_ready(router, False)
        assert (await router.health.is_ready()).reason == "having a worker is false"


async def test_what_it_has_counted_is_among_the_metrics_of_its_process() -> None:
    cluster = Cluster()
    async with cluster.mocker(), cluster.process() as runtime, routing(cluster) as router:
        client = await runtime.endpoint("test.router.generate").client()
        await client.wait_for_instances(timeout_s=DEADLINE_S)
        async for _ in await client.generate(request(PROMPT)):
            pass
        text = router.exposition.prepare()("")[0].decode()
    labels = '{model="mock"}'
    for line in (
        f"dynamo_component_router_decisions_total{labels} 1.0",
        f"dynamo_component_router_prompt_blocks_total{labels} 12.0",
        f"dynamo_component_router_workers{labels} 1.0",
        f"dynamo_component_router_bookings{labels} 0.0",
        f"dynamo_component_router_bookings_expired_total{labels} 0.0",
        f"dynamo_component_router_bookings_dropped_total{labels} 0.0",
        f"dynamo_component_router_index_following{labels} 1.0",
        f"dynamo_router_overhead_total_ms_count{labels} 1.0",
    ):
        assert line in text.splitlines()


async def test_a_worker_that_says_the_same_again_keeps_its_place() -> None:
    cluster = Cluster()
    async with AsyncExitStack() as stack:
        runtime = await stack.enter_async_context(cluster.process())
        endpoint = runtime.endpoint(ENDPOINT)
        served = await endpoint.serve(says_who)
        await put_card(endpoint)
        asker = await stack.enter_async_context(asking(cluster))
        await stack.enter_async_context(instance(cluster, context_length=5))
        await put_card(endpoint)
        late = await stack.enter_async_context(instance(cluster))
        async with asyncio.timeout(DEADLINE_S):
            while late not in (counted := await asker.num_requests()):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        assert counted.keys() == {served.instance_id, late}


async def test_a_worker_of_another_kind_that_is_there_first_does_not_end_the_router() -> None:
    cluster = Cluster()
    async with instance(cluster, model_input=ModelInput.Text), asking(cluster, block_size=4) as asker:
        assert await asker.num_requests() == {}
        async with instance(cluster) as id, asyncio.timeout(DEADLINE_S):
            while await asker.num_requests() != {id: 0}:  # noqa: ASYNC110
                await asyncio.sleep(0.001)


class Vanishing(MemoryDiscovery):
    """Loses all cards as soon as somebody has looked for what there is."""

    async def get_prefix(self, prefix: str) -> dict[str, bytes]:
        found = await super().get_prefix(prefix)
        await self._lose_cards()
        return found

    async def watch(self, prefix: str) -> AsyncGenerator[Change, None]:
        async with aclosing(super().watch(prefix)) as changes:
            async for change in changes:
                yield change
                if isinstance(change, Synced) and prefix.startswith(MODEL_CARDS):
                    await self._lose_cards()

    async def _lose_cards(self) -> None:
        for key in await super().get_prefix(MODEL_CARDS):
            await self.delete(key)


async def test_a_card_that_goes_as_the_router_begins_is_not_taken_for_one_that_is_there() -> None:
    cluster = Cluster()
    cluster.discovery = Vanishing()
    async with instance(cluster), cluster.process() as runtime:
        endpoint = runtime.endpoint(ENDPOINT)
        async with EndpointWorkers(endpoint, await endpoint.client(), None) as workers:
            await until(lambda: workers.card is None)


async def test_a_router_that_has_ended_follows_nobody_any_more() -> None:
    cluster = Cluster()
    async with cluster.mocker(), cluster.process() as runtime:
        serving = asyncio.create_task(serve_router(runtime, RouterOptions(endpoint=ENDPOINT)))
        client = await runtime.endpoint("test.router.generate").client()
        await client.wait_for_instances(timeout_s=DEADLINE_S)
        called = runtime.measure_calls(runtime.endpoint(ENDPOINT).id)
        assert len(called.callers) == 1
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        assert called.callers == []


class SlowToAnswer(MemoryDiscovery):
    """Does as it is told, and says so only when nobody waits any more."""

    def __init__(self) -> None:
        super().__init__()
        self.was_told = asyncio.Event()

    async def put(self, key: str, value: bytes, lease: Lease | None = None) -> None:
        await super().put(key, value, lease)
        if key.startswith(f"{MODEL_CARDS}front/"):
            self.was_told.set()
            await asyncio.Event().wait()


async def test_a_router_that_ends_while_it_tells_of_its_model_takes_that_back() -> None:
    cluster = Cluster()
    cluster.discovery = discovery = SlowToAnswer()
    async with cluster.mocker(), cluster.process() as runtime:
        serving = asyncio.create_task(serve_router(runtime, RouterOptions(endpoint=ENDPOINT, namespace="front")))
        async with asyncio.timeout(DEADLINE_S):
            await discovery.was_told.wait()
            assert len(await cards(runtime, "front")) == 1
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
        assert await cards(runtime, "front") == []

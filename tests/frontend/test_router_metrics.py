"""What routers count, on `/metrics`: the index of KV blocks, the events that it is made of, and who waits."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.frontend.mocked import BLOCK_SIZE, DEADLINE_S, MODEL, Mocked, mocked
from tests.frontend.route.fake_server import fake_server, says
from tests.frontend.route.scene import routing
from tests.frontend.test_observed import families_of
from tests.llm.kv.fake_vllm import fake_vllm, stored
from tests.llm.kv.scene import Host, endpoint_of, store, tokens_hashes, until
from tests.llm.test_zero_hits import Counting

from dynamo._core.virtual_clock import run_virtually
from dynamo.frontend._router_metrics import router_metrics
from dynamo.llm import KvRouter
from dynamo.llm._kv_faults import OF_PUBLISHERS, Fault
from dynamo.llm._kv_router.config import KvRouterConfig
from dynamo.llm._router_metrics import RouterCollector

PREFIX = "dynamo_frontend_router_"
PROMPT = list(range(100, 100 + 4 * BLOCK_SIZE + 3))
BLOCKS = 4


def samples_of(collector: RouterCollector) -> dict[tuple[str, ...], float]:
    """The value of each sample by its name, without the beginning, and its labels behind the model."""
    return {
        (sample.name.removeprefix(PREFIX), *(value for key, value in sample.labels.items() if key != "model")): (
            sample.value
        )
        for family in collector.collect()
        for sample in family.samples
    }


async def of_index(scene: Mocked) -> dict[str, float]:
    """What the metrics say of the index, without those that have labels besides the model."""
    text = (await scene.http.get("/metrics", headers={"accept": "application/openmetrics-text"})).text
    return {
        sample.name.removeprefix(f"{PREFIX}index_"): sample.value
        for name, family in families_of(text).items()
        if name.startswith(f"{PREFIX}index_")
        for sample in family.samples
        if sample.labels == {"model": MODEL}
    }


async def until_index_has(scene: Mocked, **values: float) -> dict[str, float]:
    async with asyncio.timeout(DEADLINE_S):
        while not values.items() <= (found := await of_index(scene)).items():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return found


async def test_the_index_is_as_large_as_the_caches(tiny_model: Path) -> None:
    async with mocked(tiny_model, router_mode="kv") as scene:
        await until_index_has(scene, following=1, publishers=0, blocks=0)
        for id in scene.instance_ids:
            await scene.ask(PROMPT, nvext={"backend_instance_id": id})
        found = await until_index_has(scene, publishers=2, blocks=2 * BLOCKS)
        assert (found["unique_blocks"], found["workers"], found["refused_publishers"]) == (BLOCKS, 2, 0)
        assert found["answers_total"] >= 2


async def test_workers_that_publish_nothing_are_no_publishers(tiny_model: Path) -> None:
    async with mocked(tiny_model, kv_events=False, router_mode="kv") as scene:
        assert (await until_index_has(scene, following=1))["publishers"] == 0


async def test_a_router_without_events_tells_how_much_it_remembers(tiny_model: Path) -> None:
    async with mocked(tiny_model, router_mode="kv", router_use_kv_events=False) as scene:
        await scene.ask(PROMPT)
        assert await of_index(scene) == {}
        assert f'{PREFIX}sent_blocks{{model="{MODEL}"}} {BLOCKS:.1f}' in (await scene.http.get("/metrics")).text


def test_events_are_counted_by_what_they_say_and_by_what_was_wrong() -> None:
    async def main() -> None:
        host = Host()
        async with (
            host.worker() as publisher,
            host.worker(block_size=8) as other,
            host.process() as runtime,
            KvRouter(endpoint_of(runtime), 4) as router,
        ):
            collector = router_metrics(lambda: {"m": router})
            store(other, tokens_hashes(1))
            await until(lambda: samples_of(collector)["index_refused_publishers",] == 1)
            names = store(publisher, tokens_hashes(3))
            await until(lambda: samples_of(collector)["index_blocks",] == 3)
            publisher.removed(names[2:])
            store(other, tokens_hashes(3))
            await until(lambda: samples_of(collector)["index_events_total", "removed"] == 1)
            await until(lambda: samples_of(collector)["index_event_faults_total", "block_size"] > 0)
            samples = samples_of(collector)
            assert (samples["index_publishers",], samples["index_blocks",]) == (2, 2)
            assert samples["index_events_total", "stored"] == 1
            faults = {key[1]: value for key, value in samples.items() if key[0] == "index_event_faults_total"}
            assert set(faults) == set(Fault) - OF_PUBLISHERS
            assert {fault for fault, count in faults.items() if count} == {Fault.BLOCK_SIZE}

    run_virtually(main())


@pytest.mark.parametrize("queue_threshold", [None, 1.0])
async def test_nobody_waits_is_a_sample_too(queue_threshold: float | None) -> None:
    async with Host().process() as runtime:
        config = KvRouterConfig(queue_threshold=queue_threshold)
        async with KvRouter(endpoint_of(runtime), 4, config) as router:
            samples = samples_of(router_metrics(lambda: {"m": router}))
    assert samples["queue_pending_requests", "default"] == 0


def test_a_router_without_an_index_has_no_size_of_one() -> None:
    samples = samples_of(router_metrics(lambda: {"m": Counting()}))
    assert samples["decisions_total",] == 0
    assert not [key for key in samples if key[0].startswith(("index", "sent"))]


async def test_a_route_counts_the_events_of_its_servers(tiny_model: Path) -> None:
    async with (
        fake_vllm() as engine,
        fake_server(says("one")) as one,
        routing(
            one.url,
            router_mode="kv",
            model_path=str(tiny_model),
            backend_kv_events=f"{engine.endpoint},{engine.replay_endpoint}",
        ) as route,
    ):
        await engine.subscribed()
        assert await route.metric(f'{PREFIX}index_publishers{{model="all"}}') == 0
        await engine.publish(stored(PROMPT[: BLOCKS * BLOCK_SIZE], BLOCK_SIZE))
        async with asyncio.timeout(DEADLINE_S):
            while await route.metric(f'{PREFIX}index_blocks{{model="all"}}') != BLOCKS:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert await route.metric(f'{PREFIX}index_publishers{{model="all"}}') == 1
        assert await route.metric(f'{PREFIX}index_events_total{{event_type="stored",model="all"}}') == 1

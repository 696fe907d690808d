"""Older names and arguments of what concerns KV caches: they work as before, and one warning says what is now."""

from __future__ import annotations

import asyncio
import json
import warnings

import pytest
from tests.llm.kv.fake_vllm import CLEARED, fake_vllm, removed, stored
from tests.llm.kv.scene import BLOCK_SIZE, DEADLINE_S, Host, endpoint_of, finds
from tests.llm.kv_router.cluster import Cluster

from dynamo import llm
from dynamo._core.blocks import block_hashes
from dynamo._core.errors import InvalidArgument
from dynamo._core.prefix_index import WorkerKey

TOKENS = list(range(3 * BLOCK_SIZE))
PROMPT = block_hashes(TOKENS, BLOCK_SIZE)
SIZES = [BLOCK_SIZE] * 3


def warns(name: str) -> pytest.WarningsRecorder:
    """Expect that this older name warns."""
    return pytest.warns(DeprecationWarning, match=rf"dynamo\.llm\.{name}\b.* goes with version 1\.0")


async def test_events_are_published_for_a_component_with_numbers_of_ones_own() -> None:
    host = Host()
    async with host.process() as runtime, host.router() as indexer:
        with warns("KvEventPublisher"):
            publisher = llm.KvEventPublisher(runtime.namespace("test").component("worker"), 55, BLOCK_SIZE)
        publisher.publish_stored(17, TOKENS[:BLOCK_SIZE], SIZES[:1], [1], 0)
        publisher.publish_stored(
            event_id=18, token_ids=TOKENS[BLOCK_SIZE:], num_block_tokens=SIZES[1:], block_hashes=[2, 3], parent_hash=1
        )
        await finds(indexer, PROMPT, {WorkerKey(55): 3})
        publisher.publish_removed(19, [3])
        await finds(indexer, PROMPT, {WorkerKey(55): 2})
        publisher.publish_removed(event_id=20, block_hashes=[2])
        await finds(indexer, PROMPT, {WorkerKey(55): 1})
        publisher.publish_stored(21, TOKENS, SIZES, [11, 12, 13], 4)
        await finds(indexer, block_hashes(TOKENS, BLOCK_SIZE, lora_name="4"), {WorkerKey(55): 3})
        assert (await indexer.find_matches_for_request(TOKENS, 4)).scores == {55: 3}
        assert publisher.faults == {}


async def test_the_newer_arguments_are_taken_too() -> None:
    host = Host()
    async with host.process() as runtime, host.router() as indexer:
        with warns("KvEventPublisher"):
            publisher = llm.KvEventPublisher(endpoint_of(runtime), kv_block_size=BLOCK_SIZE, enable_local_indexer=True)
        publisher.publish_stored(TOKENS, SIZES, [1, 2, 3])
        await finds(indexer, PROMPT, {publisher.worker: 3})
        publisher.publish_removed([2])
        await finds(indexer, PROMPT, {publisher.worker: 1})


async def test_a_publisher_of_an_engines_own_events_is_configured_as_before() -> None:
    host = Host()
    async with fake_vllm() as engine, host.process() as runtime, host.router() as indexer:
        with warns("ZmqKvEventPublisherConfig"):
            config = llm.ZmqKvEventPublisherConfig(worker_id=77, kv_block_size=BLOCK_SIZE, zmq_endpoint=engine.endpoint)
        with warns("ZmqKvEventPublisher"):
            publisher = llm.ZmqKvEventPublisher(runtime.namespace("test").component("worker"), config)
        await engine.subscribed()
        await engine.publish(stored(TOKENS, BLOCK_SIZE))
        await finds(indexer, PROMPT, {WorkerKey(77): 3})
        publisher.shutdown()
        await finds(indexer, PROMPT, {})


async def test_a_listener_gives_an_engines_events_as_a_tree_reads_them() -> None:
    async with fake_vllm() as engine:
        with warns("ZmqKvEventListener"):
            listener = llm.ZmqKvEventListener(engine.endpoint, "", BLOCK_SIZE)
        await engine.subscribed()
        assert await listener.get_events() == []
        await engine.publish(stored(TOKENS, BLOCK_SIZE, hashes=[1, 2, 3]), removed([3]))
        events = await all_events(listener, 2)
        tree = llm.RadixTree()
        for event in events:
            tree.apply_event(7, event)
        assert tree.find_matches(PROMPT).scores == {WorkerKey(7): 2}
        await engine.publish(CLEARED)
        (last,) = await all_events(listener, 1)
        assert json.loads(last) == {"event_id": 3, "data": "cleared", "dp_rank": 0}
        await listener.close()


async def all_events(listener: llm.ZmqKvEventListener, num: int) -> list[str]:
    events: list[str] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(events) < num:
            events += await listener.get_events()
            await asyncio.sleep(0.001)
    return events


async def test_the_older_router_is_a_kv_router_and_warns_once() -> None:
    cluster = Cluster()
    async with cluster.mocker() as worker, cluster.process() as runtime:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", DeprecationWarning)
            router = llm.KvPushRouter(runtime.endpoint("test.worker.generate"), BLOCK_SIZE, llm.KvRouterConfig())
            stream = await router.generate(TOKENS, "mock", {"max_tokens": 2})
        (warning,) = caught
        assert str(warning.message) == "dynamo.llm.KvPushRouter is dynamo.llm.KvRouter now, and goes with version 1.0"
        assert warning.filename == __file__
        assert isinstance(stream, llm.KvPushRouterStream)
        assert [len(item["token_ids"]) async for item in stream if item.get("token_ids")] == [1, 1]  # type: ignore[arg-type]
        assert (await router.best_worker(TOKENS))[0] == worker.id
        await router.close()


def test_the_older_hashes_are_the_same() -> None:
    with warns("compute_block_hash_for_seq_py"):
        assert llm.compute_block_hash_for_seq_py(TOKENS, BLOCK_SIZE) == list(PROMPT)


OLDER = [
    "KvEventPublisher", "KvPushRouter", "KvPushRouterStream", "ZmqKvEventListener", "ZmqKvEventPublisher",
    "ZmqKvEventPublisherConfig", "compute_block_hash_for_seq_py",
]  # fmt: skip


@pytest.mark.parametrize("name", OLDER)
def test_an_older_name_tells_type_checkers_what_it_is_now_and_is_imported_in_silence(name: str) -> None:
    assert "goes with version 1.0" in getattr(llm, name).__deprecated__


@pytest.mark.parametrize(
    "name",
    ["ApproxKvIndexer", "KvIndexer", "KvMetricsAggregator", "KvMetricsPublisher", "KvRecorder", "OverlapScores",
     "RadixTree", "KvPublisher", "KvRouter"],
)  # fmt: skip
def test_a_name_that_is_taught_is_not_deprecated(name: str) -> None:
    assert not hasattr(getattr(llm, name), "__deprecated__")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_wrong_arguments_of_older_names_are_named() -> None:
    async with Host().process() as runtime:
        component = runtime.namespace("test").component("worker")
        with pytest.raises(InvalidArgument, match="endpoint is 'worker': give the worker's endpoint"):
            llm.KvEventPublisher("worker", 1, BLOCK_SIZE)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgument, match="config is None: give a ZmqKvEventPublisherConfig"):
            llm.ZmqKvEventPublisher(component, None)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgument, match="kv_block_size is 0"):
            llm.ZmqKvEventPublisherConfig(1, 0)
        with pytest.raises(InvalidArgument, match="zmq_endpoint is 5557: give a str"):
            llm.ZmqKvEventListener(5557, "", BLOCK_SIZE)  # type: ignore[arg-type]


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="KvNothing"):
        _ = getattr(llm, "KvNothing")  # noqa: B009  # as somebody's code would, whatever checkers think of it

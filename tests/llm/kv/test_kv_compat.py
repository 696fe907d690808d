"""Older names and arguments of the publisher."""

from __future__ import annotations

import importlib

import pytest
from tests.llm.kv.fake_vllm import fake_vllm, stored
from tests.llm.kv.scene import BLOCK_SIZE, Host, endpoint_of, finds

from dynamo import llm
from dynamo._core.blocks import block_hashes
from dynamo._core.prefix_index import WorkerKey
from dynamo.llm._kv_compat import KvEventPublisher, ZmqKvEventPublisher, ZmqKvEventPublisherConfig

TOKENS = list(range(3 * BLOCK_SIZE))
PROMPT = block_hashes(TOKENS, BLOCK_SIZE)
SIZES = [BLOCK_SIZE] * 3


async def test_events_are_published_for_a_component_with_numbers_of_ones_own() -> None:
    host = Host()
    async with host.process() as runtime, host.router() as indexer:
        publisher = KvEventPublisher(runtime.namespace("test").component("worker"), 55, BLOCK_SIZE)
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
        publisher = KvEventPublisher(endpoint_of(runtime), kv_block_size=BLOCK_SIZE, enable_local_indexer=True)
        publisher.publish_stored(TOKENS, SIZES, [1, 2, 3])
        await finds(indexer, PROMPT, {publisher.worker: 3})
        publisher.publish_removed([2])
        await finds(indexer, PROMPT, {publisher.worker: 1})


async def test_a_publisher_of_an_engines_own_events_is_configured_as_before() -> None:
    host = Host()
    async with fake_vllm() as engine, host.process() as runtime, host.router() as indexer:
        config = ZmqKvEventPublisherConfig(worker_id=77, kv_block_size=BLOCK_SIZE, zmq_endpoint=engine.endpoint)
        publisher = ZmqKvEventPublisher(runtime.namespace("test").component("worker"), config)
        await engine.subscribed()
        await engine.publish(stored(TOKENS, BLOCK_SIZE))
        await finds(indexer, PROMPT, {WorkerKey(77): 3})
        publisher.shutdown()
        await finds(indexer, PROMPT, {})


@pytest.mark.parametrize("name", ["KvEventPublisher", "ZmqKvEventPublisher", "ZmqKvEventPublisherConfig"])
def test_an_older_name_says_what_it_is_now(name: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"{name} is dynamo.llm.KvPublisher now"):
        assert getattr(llm, name) is getattr(importlib.import_module("dynamo.llm._kv_compat"), name)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="KvNothing"):
        _ = llm.KvNothing

"""What a worker tells of its cache: the calls, the ends, and what is wrong with what an engine says."""

from __future__ import annotations

import asyncio
import threading
from array import array
from collections.abc import Callable

import pytest
from tests.llm.kv.scene import (
    BLOCK_SIZE,
    DEADLINE_S,
    Host,
    endpoint_of,
    finds,
    store,
    tokens_hashes,
    until,
)

from dynamo._core.blocks import block_hashes
from dynamo._core.errors import InvalidArgument
from dynamo._core.event_plane.inproc import InprocEventPlane
from dynamo._core.prefix_index import WorkerKey
from dynamo.llm import KvPublisher
from dynamo.llm._kv_events import KvEventBatch
from dynamo.llm._kv_publisher import KV_EVENTS, PENDING_EVENTS_MAX
from dynamo.runtime import DistributedRuntime, Gap

TOKENS = list(range(100, 100 + 4 * BLOCK_SIZE))
PROMPT = list(block_hashes(TOKENS, BLOCK_SIZE))


async def test_a_block_size_is_needed() -> None:
    async with Host().process() as runtime:
        for size in (0, -1, True):
            with pytest.raises(InvalidArgument, match="kv_block_size"):
                KvPublisher(endpoint_of(runtime), kv_block_size=size)


async def test_the_worker_is_the_instance_of_its_endpoint_unless_an_id_is_given() -> None:
    async with Host().process() as runtime:
        endpoint = endpoint_of(runtime)
        assert KvPublisher(endpoint, kv_block_size=1, dp_rank=2).worker == WorkerKey(endpoint.lease_id(), 2)
        assert KvPublisher(endpoint, 77, 1).worker == WorkerKey(77, 0)


async def test_tokens_and_their_hashes_say_the_same() -> None:
    host = Host()
    async with host.worker() as one, host.worker() as other, host.router() as indexer:
        one.stored(None, [1, 2, 3, 4], token_ids=TOKENS)
        other.stored(None, array("Q", [9, 8]), array("Q", PROMPT[:2]))
        await finds(indexer, PROMPT, {one.worker: 4, other.worker: 2})


async def test_blocks_are_published_with_their_tokens_adapters_and_salts() -> None:
    host = Host()
    async with host.worker() as publisher, host.router() as indexer:
        sizes = [BLOCK_SIZE] * 4
        publisher.publish_stored(TOKENS, sizes, [1, 2, 3, 4])
        publisher.publish_stored(TOKENS, sizes, [11, 12, 13, 14], lora_name="adapter", cache_salt="tenant")
        publisher.publish_stored([*TOKENS, 5], sizes, [21, 22, 23, 24], is_eagle=True)
        await finds(indexer, PROMPT, {publisher.worker: 4})
        salted = block_hashes(TOKENS, BLOCK_SIZE, lora_name="adapter", cache_namespace="tenant")
        await finds(indexer, salted, {publisher.worker: 4})
        await finds(indexer, block_hashes([*TOKENS, 5], BLOCK_SIZE, is_eagle=True), {publisher.worker: 4})
        publisher.publish_removed([13])
        await finds(indexer, salted, {publisher.worker: 2})
        publisher.publish_cleared()
        await finds(indexer, PROMPT, {})
        assert publisher.faults == {}


async def test_a_short_block_and_those_behind_it_are_left_out_and_counted() -> None:
    host = Host()
    async with host.worker() as publisher, host.router() as indexer:
        publisher.publish_stored(TOKENS[:-1], [BLOCK_SIZE, BLOCK_SIZE, BLOCK_SIZE - 1, BLOCK_SIZE], [1, 2, 3, 4])
        await finds(indexer, PROMPT, {publisher.worker: 2})
        assert publisher.faults == {"short_block": 2}


async def test_a_batch_is_what_others_write() -> None:
    host = Host()
    async with host.worker() as publisher, host.router() as indexer:
        blocks = [{"block_hash": name, "tokens_hash": tokens} for name, tokens in enumerate(PROMPT)]
        publisher.publish_batch(
            [
                {"stored": {"parent_hash": None, "blocks": blocks}},
                {"removed": {"block_hashes": [3]}},
                {"stored": {"blocks": []}},
            ]
        )
        await finds(indexer, PROMPT, {publisher.worker: 3})
        assert publisher.faults == {"malformed": 1}


@pytest.mark.parametrize(
    ("say", "fault"),
    [
        (lambda publisher: publisher.stored(12, [1], [1]), "unknown_parent"),
        (lambda publisher: publisher.removed([1]), "unknown_block"),
        (lambda publisher: publisher.stored(None, [1 << 64], [1]), "malformed"),
        (lambda publisher: publisher.stored(None, ["one"], [1]), "malformed"),
        (lambda publisher: publisher.stored(None, [1, 2], [1]), "short_block"),
        (lambda publisher: publisher.stored(None, [1], token_ids=[1] * BLOCK_SIZE * 2), "short_block"),
        (lambda publisher: publisher.stored(None, [1], token_ids=[-1] * BLOCK_SIZE), "malformed"),
        (lambda publisher: publisher.removed([-(1 << 70)]), "malformed"),
    ],
)
async def test_what_makes_no_sense_is_counted_and_told_to_nobody(
    say: Callable[[KvPublisher], None], fault: str
) -> None:
    async with Host().worker() as publisher:
        say(publisher)
        assert list(publisher.faults) == [fault]
        assert publisher.num_blocks == 0


async def test_events_are_counted_from_one_and_the_count_is_said_again() -> None:
    host = Host()
    async with host.process() as runtime, host.worker() as publisher:
        async with await runtime.namespace("test").component("worker").subscribe(KV_EVENTS, KvEventBatch) as heard:
            store(publisher, PROMPT)
            store(publisher, tokens_hashes(2))
            async with asyncio.timeout(DEADLINE_S):
                batches = [await anext(heard), await anext(heard)]
        first, head = batches
        assert not isinstance(first, Gap)
        assert not isinstance(head, Gap)
        assert (first.payload.event_id, len(first.payload.events)) == (1, 2)
        assert (head.payload.event_id, head.payload.events) == (3, [])
        assert first.payload.epoch == head.payload.epoch > 0
        assert first.payload.block_size == BLOCK_SIZE


async def test_other_threads_may_call() -> None:
    host = Host()
    async with host.worker() as publisher, host.router() as indexer:
        threads = [
            threading.Thread(target=store, args=(publisher, tokens_hashes(8, first_token=1000 * number)))
            for number in range(4)
        ]
        for thread in threads:
            thread.start()
        for number, thread in enumerate(threads):
            await asyncio.to_thread(thread.join)
            await finds(indexer, tokens_hashes(8, first_token=1000 * number), {publisher.worker: 8})


async def test_a_publisher_that_is_shut_down_is_forgotten_and_says_nothing_more() -> None:
    host = Host()
    async with host.process() as runtime, host.router() as indexer:
        ranks = [KvPublisher(endpoint_of(runtime), kv_block_size=BLOCK_SIZE, dp_rank=rank) for rank in range(2)]
        for rank in ranks:
            store(rank, PROMPT)
        await finds(indexer, PROMPT, {rank.worker: 4 for rank in ranks})
        await ranks[0].close()
        await finds(indexer, PROMPT, {ranks[1].worker: 4})
        store(ranks[0], tokens_hashes(2))
        async with ranks[1]:
            pass
        await finds(indexer, PROMPT, {})
        await until(lambda: not indexer.sources())
        assert indexer.find(tokens_hashes(2)) == {}


async def test_another_publisher_takes_the_place_of_one_that_was_shut_down() -> None:
    host = Host()
    async with host.process() as runtime, host.router() as indexer:
        first = KvPublisher(endpoint_of(runtime), kv_block_size=BLOCK_SIZE)
        store(first, PROMPT)
        await finds(indexer, PROMPT, {first.worker: 4})
        await first.close()
        second = KvPublisher(endpoint_of(runtime), kv_block_size=BLOCK_SIZE)
        assert second.worker == first.worker
        store(second, PROMPT[:1])
        await finds(indexer, PROMPT, {first.worker: 1})


async def test_a_worker_with_a_lease_of_its_own_goes_with_it() -> None:
    host = Host()
    async with host.process() as runtime, host.router() as indexer:
        lease = await runtime.grant_custom_lease(10.0)
        endpoint = type(endpoint_of(runtime))(runtime, endpoint_of(runtime).id, lease)
        publisher = KvPublisher(endpoint, kv_block_size=BLOCK_SIZE)
        assert publisher.worker.worker_id == lease.id()
        store(publisher, PROMPT)
        await finds(indexer, PROMPT, {publisher.worker: 4})
        await lease.close()
        await finds(indexer, PROMPT, {})


async def test_a_process_serves_nothing_before_its_first_event() -> None:
    host = Host()
    async with host.process() as runtime:
        publisher = KvPublisher(endpoint_of(runtime), kv_block_size=BLOCK_SIZE)
        assert runtime.health.endpoints() == {}
        store(publisher, PROMPT)
        await until(lambda: runtime.health.endpoints() == {"kv_query": True})


async def test_what_other_threads_say_faster_than_it_is_taken_makes_all_unknown() -> None:
    async with Host().worker() as publisher:
        store(publisher, PROMPT)

        def flood() -> None:
            for _ in range(PENDING_EVENTS_MAX + 1):
                publisher.removed([1])

        thread = threading.Thread(target=flood)
        thread.start()
        thread.join()  # while the loop stands
        await until(lambda: publisher.num_blocks == 0)
        assert publisher.faults == {"unknown_block": PENDING_EVENTS_MAX, "overflow": 1}
        store(publisher, PROMPT)
        assert publisher.num_blocks == 4


@pytest.mark.parametrize("is_batch", [False, True])
async def test_however_many_blocks_go_at_once_routers_hear_of_it(is_batch: bool) -> None:
    host, names = Host(), list(range(1, 130_001))
    async with host.worker() as publisher, host.router() as indexer:
        publisher.stored(None, names, names)
        await until(lambda: indexer.workers() == {publisher.worker: len(names)})
        if is_batch:
            publisher.publish_batch([{"removed": {"block_hashes": names[10:]}}])
        else:
            publisher.removed(names[10:])
        store(publisher, PROMPT)
        await until(lambda: indexer.workers() == {publisher.worker: 10 + len(PROMPT)})
        assert publisher.faults == {}


class Narrow(InprocEventPlane):
    """Takes no event above a size."""

    async def publish(self, subject: str, payload: bytes) -> None:
        if len(payload) > 1000:
            raise InvalidArgument("too large")
        await super().publish(subject, payload)


async def test_events_that_can_never_be_sent_are_asked_for_and_hold_up_no_others() -> None:
    host = Host()
    plane = Narrow(host.bus)
    runtime = DistributedRuntime(discovery=host.discovery, request_plane=host.requests, event_plane=plane)
    async with runtime, host.router() as indexer:
        publisher = KvPublisher(endpoint_of(runtime), kv_block_size=BLOCK_SIZE)
        store(publisher, PROMPT)
        await finds(indexer, PROMPT, {publisher.worker: 4})
        long = tokens_hashes(500, first_token=5000)
        store(publisher, long)
        await until(lambda: publisher.faults == {"not_sent": 1})
        store(publisher, tokens_hashes(2, first_token=100_000))
        await finds(indexer, tokens_hashes(2, first_token=100_000), {publisher.worker: 2})
        assert indexer.find(long) == {publisher.worker: 500}
        assert indexer.stats().faults == {"missed": 1}
    await plane.close()

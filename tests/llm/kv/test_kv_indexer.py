"""A router's view of the caches: who is followed, who is not, and what garbage does."""

from __future__ import annotations

import asyncio
import itertools
from array import array
from collections.abc import AsyncGenerator
from typing import cast

import pytest
from tests.llm.kv.scene import BLOCK_SIZE, DEADLINE_S, Host, endpoint_of, finds, store, tokens_hashes, until
from tests.sim.loop import run

from dynamo._core.address import event_subject
from dynamo._core.blocks import sequence_hashes
from dynamo._core.errors import DynamoError, InvalidArgument
from dynamo.llm import KvIndexer, KvPublisher
from dynamo.llm._kv_events import BLOCKS_PER_EVENT_MAX, KvCacheChange, KvEventBatch, Removed, Stored, hashes_to_bytes
from dynamo.llm._kv_follower import HASHES_PER_TURN
from dynamo.llm._kv_publisher import KV_EVENTS
from dynamo.llm._kv_query import KvAnswer, KvQuery
from dynamo.runtime import DistributedRuntime, ServedEndpoint

PROMPT = tokens_hashes(6)
SUBJECT = event_subject(KV_EVENTS, "test", "worker")


def hashes(*values: int) -> bytes:
    return hashes_to_bytes(array("Q", values))


async def test_the_longest_prefix_of_each_worker_is_found_by_tokens_or_hashes() -> None:
    host = Host()
    async with host.worker() as one, host.worker() as other, host.router() as indexer:
        store(one, PROMPT)
        store(other, PROMPT[:2])
        await finds(indexer, PROMPT, {one.worker: 6, other.worker: 2})
        tokens = list(range(6 * BLOCK_SIZE + 1))
        for found in (
            await indexer.find_matches_for_request(tokens),
            await indexer.find_matches_for_request(tokens, 0),
            await indexer.find_matches(PROMPT),
        ):
            assert found.scores == {one.worker.worker_id: 6, other.worker.worker_id: 2}
            assert found.frequencies == [2, 2, 1, 1, 1, 1]
        assert (await indexer.find_matches_for_request(tokens, 1)).scores == {}
        assert (await indexer.find_matches_for_request(tokens, cache_namespace="tenant")).scores == {}
        assert (await indexer.find_matches_for_request([])).scores == {}
        assert indexer.block_size() == BLOCK_SIZE
        with pytest.raises(InvalidArgument):
            await indexer.find_matches([1 << 64])


async def test_of_several_ranks_a_worker_counts_as_the_one_that_holds_most() -> None:
    host = Host()
    async with host.process() as runtime, host.router() as indexer:
        ranks = [KvPublisher(endpoint_of(runtime), kv_block_size=BLOCK_SIZE, dp_rank=rank) for rank in range(3)]
        for held, rank in zip((2, 5, 1), ranks, strict=True):
            store(rank, PROMPT[:held])
        await finds(indexer, PROMPT, {ranks[0].worker: 2, ranks[1].worker: 5, ranks[2].worker: 1})
        assert (await indexer.find_matches(PROMPT)).scores == {ranks[0].worker.worker_id: 5}


async def test_who_comes_late_is_told_everything() -> None:
    host = Host()
    async with host.worker() as publisher:
        for number in range(200):
            store(publisher, tokens_hashes(100, first_token=10_000 * number))
        async with host.router() as indexer:
            assert indexer.workers() == {publisher.worker: 20_000}
            assert (indexer.stats().num_answers, indexer.stats().num_dumps) == (1, 1)
            assert indexer.stats().num_unique_blocks == 20_000


async def test_a_worker_that_leaves_is_forgotten_at_once() -> None:
    host = Host()
    async with host.worker() as stays, host.router() as indexer:
        store(stays, PROMPT)
        async with host.worker() as leaves:
            store(leaves, PROMPT)
            await finds(indexer, PROMPT, {stays.worker: 6, leaves.worker: 6})
        await finds(indexer, PROMPT, {stays.worker: 6})
        await until(lambda: list(indexer.sources()) == [stays.worker.worker_id])


async def test_what_it_knows_can_be_told_as_events() -> None:
    host = Host()
    async with host.worker() as one, host.worker(dp_rank=1) as other, host.router() as indexer:
        store(one, PROMPT)
        store(other, PROMPT[:2] + tokens_hashes(3, first_token=500))
        await finds(indexer, PROMPT, {one.worker: 6, other.worker: 2})
        async with host.process() as runtime:
            copy = KvIndexer(runtime.namespace("elsewhere").component("worker"), BLOCK_SIZE)
            for event in indexer.dump_events():
                copy.apply_event(event)
            assert copy.find(PROMPT) == indexer.find(PROMPT)
            assert copy.workers() == indexer.workers()


async def test_others_have_their_turn_while_it_tells_what_it_knows() -> None:
    host = Host()
    async with host.worker() as publisher, host.router() as indexer:
        names = list(range(1, 20_001))
        publisher.stored(None, names, names)
        await until(lambda: indexer.stats().num_blocks == 20_000)
        num_turns, events = 0, []

        async def others() -> None:
            nonlocal num_turns
            while True:
                num_turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(others())
        async for event in indexer.dump():
            events.append(event)
            store(publisher, tokens_hashes(1, first_token=1000 * len(events)))
        task.cancel()
        assert num_turns >= len(events) >= 20_000 // BLOCKS_PER_EVENT_MAX
        told = [event.event.data for event in events if isinstance(event.event.data, KvCacheChange)]
        assert sum(len(data.stored.blocks) for data in told if data.stored) == 20_000


async def test_a_publisher_with_another_block_size_is_refused_with_both_values(
    caplog: pytest.LogCaptureFixture,
) -> None:
    host = Host()
    async with host.worker() as right, host.worker(block_size=8) as wrong, host.router() as indexer:
        store(right, PROMPT)
        store(wrong, PROMPT)
        await finds(indexer, PROMPT, {right.worker: 6})
        await until(lambda: "8" in indexer.sources().get(wrong.worker.worker_id, ""))
        assert "blocks of 8 tokens, and this router's have 4" in indexer.sources()[wrong.worker.worker_id]
        assert indexer.sources()[right.worker.worker_id] == ""
        store(wrong, tokens_hashes(3))
        await until(lambda: indexer.stats().faults.get("block_size", 0) > 0)
    assert sum("blocks of 8 tokens" in record.message for record in caplog.records if record.levelname == "ERROR") == 1


async def test_events_of_nobody_are_counted_and_ignored() -> None:
    host = Host()
    async with host.process() as runtime, host.worker() as publisher, host.router() as indexer:
        stray = KvEventBatch(1, 0, 1, BLOCK_SIZE, 9, 1, [Stored(None, hashes(*PROMPT), hashes(*PROMPT))])
        await runtime.events.publish(SUBJECT, stray)
        store(publisher, PROMPT[:1])
        await finds(indexer, PROMPT, {publisher.worker: 1})
        assert indexer.stats().faults["unlisted"] >= 1


async def test_garbage_is_counted_and_ignored() -> None:
    host = Host()
    async with host.process() as runtime, host.worker() as publisher, host.router() as indexer:
        for garbage in ("text", {"worker_id": 1}, [1, 2], [1, 0, 1, 4, 5, 1, [[9, 9]]]):
            await runtime.events.publish(SUBJECT, garbage)
        store(publisher, PROMPT)
        await finds(indexer, PROMPT, {publisher.worker: 6})
        await until(lambda: indexer.stats().faults.get("gap") == 4)


async def forge(host: Host, publisher: KvPublisher, event: Stored | Removed, **fields: int) -> None:
    """Publish an event in the name of a publisher, which did not say it."""
    async with host.process() as runtime:
        component = runtime.namespace("test").component("worker")
        async with await component.subscribe(KV_EVENTS, KvEventBatch) as heard:
            async with asyncio.timeout(DEADLINE_S):
                batch = cast("KvEventBatch", (await anext(heard)).payload)  # type: ignore[union-attr]
        source = publisher.worker.worker_id
        epoch = fields.get("epoch", batch.epoch)
        event_id = batch.event_id + len(batch.events) + fields.get("later", 0)
        await runtime.events.publish(SUBJECT, KvEventBatch(source, 0, source, BLOCK_SIZE, epoch, event_id, [event]))


@pytest.mark.parametrize(
    ("event", "fault"),
    [
        (Stored(99, hashes(1), hashes(1)), "unknown_parent"),
        (Stored(None, b"1234567", b"1234567"), "malformed"),
        (Stored(None, hashes(1, 2), hashes(1)), "malformed"),
    ],
)
async def test_events_that_do_not_fit_are_counted_and_the_worker_is_asked_for_the_truth(
    event: Stored, fault: str
) -> None:
    host = Host()
    async with host.worker() as publisher, host.router() as indexer:
        store(publisher, PROMPT)
        await finds(indexer, PROMPT, {publisher.worker: 6})
        num_dumps = indexer.stats().num_dumps
        await forge(host, publisher, event)
        await until(lambda: fault in indexer.stats().faults)
        await until(lambda: indexer.stats().num_dumps == num_dumps + 1)
        store(publisher, tokens_hashes(2, first_token=700))
        await finds(indexer, tokens_hashes(2, first_token=700), {publisher.worker: 2})
        assert indexer.find(PROMPT) == {publisher.worker: 6}


async def test_an_epoch_that_the_worker_does_not_know_is_asked_about_once_and_then_ignored() -> None:
    host = Host()
    async with host.worker() as publisher, host.router() as indexer:
        store(publisher, PROMPT)
        await finds(indexer, PROMPT, {publisher.worker: 6})
        for _ in range(3):
            await forge(host, publisher, Removed(hashes(1)), epoch=12345)
        await until(lambda: indexer.stats().faults.get("wrong_epoch", 0) == 3)
        assert indexer.stats().num_answers == 2
        assert indexer.find(PROMPT) == {publisher.worker: 6}


async def test_it_says_what_it_waits_for_when_the_blocks_are_not_known_in_time() -> None:
    host = Host()
    async with host.process() as runtime, host.process() as silent:

        async def never(_: object) -> None:
            await asyncio.Event().wait()

        await silent.endpoint("test.worker.kv_query").serve(never)
        indexer = KvIndexer(runtime.namespace("test").component("worker"), BLOCK_SIZE)
        with pytest.raises(DynamoError, match=f"{silent.lease.id:x}"):
            await indexer.synced(0.1)


async def test_a_router_that_ends_leaves_nothing_behind() -> None:
    host = Host()
    async with host.worker() as publisher:
        store(publisher, PROMPT)
        before = len(asyncio.all_tasks())
        async with host.router() as indexer:
            await finds(indexer, PROMPT, {publisher.worker: 6})
        await until(lambda: len(asyncio.all_tasks()) <= before)


async def test_an_index_that_is_full_forgets_what_is_old() -> None:
    host = Host()
    async with host.worker() as publisher, host.process() as runtime:
        indexer = KvIndexer(runtime.namespace("test").component("worker"), BLOCK_SIZE, blocks_max=8)
        for number in range(10):
            prompt = tokens_hashes(4, first_token=1000 * number)
            store(publisher, prompt)
            await finds(indexer, prompt, {publisher.worker: 4})
        assert indexer.stats().num_blocks == 8
        assert indexer.find(tokens_hashes(4)) == {}


async def test_a_router_without_an_event_plane_tries_again_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    host = Host()
    runtime = DistributedRuntime(
        discovery=host.discovery, request_plane=host.requests, event_plane="nats://127.0.0.1:9"
    )
    async with runtime:
        indexer = KvIndexer(runtime.namespace("test").component("worker"), BLOCK_SIZE)
        await until(lambda: "cannot be followed; trying again" in caplog.text)
        with pytest.raises(DynamoError, match="not known after"):
            await indexer.synced(0.01)
        assert indexer.find(PROMPT) == {}
        assert not indexer.stats().is_following


async def test_a_worker_without_an_event_plane_goes_on_and_counts_what_was_not_sent() -> None:
    host = Host()
    runtime = DistributedRuntime(
        discovery=host.discovery, request_plane=host.requests, event_plane="nats://127.0.0.1:9"
    )
    async with runtime, host.router() as indexer:
        publisher = KvPublisher(endpoint_of(runtime), kv_block_size=BLOCK_SIZE)
        store(publisher, PROMPT)
        await until(lambda: publisher.faults.get("not_sent", 0) >= 1)
        # The router has asked for what the worker holds, when discovery told of it.
        await finds(indexer, PROMPT, {publisher.worker: 6})


async def test_of_two_processes_that_tell_of_one_worker_the_last_counts_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    host = Host()
    async with host.process() as one, host.process() as other, host.router() as indexer:
        first = KvPublisher(endpoint_of(one), 77, BLOCK_SIZE)
        store(first, PROMPT)
        await finds(indexer, PROMPT, {first.worker: 6})
        second = KvPublisher(endpoint_of(other), 77, BLOCK_SIZE)
        store(second, PROMPT[:2])
        await until(lambda: len(indexer.sources()) == 2)
        store(second, PROMPT[:3], held=2)
        await finds(indexer, PROMPT, {first.worker: 3})
        assert indexer.stats().faults["contested"] == 1
        assert "tell of 4d/0: who spoke last counts" in caplog.text
        # It was taken from the first one just now.
        store(first, PROMPT)
        store(first, tokens_hashes(2, first_token=900))
        await until(lambda: indexer.stats().faults["contested"] == 2)
        assert indexer.find(PROMPT) == {first.worker: 3}
        assert indexer.stats().events["cleared"] == 0
        await second.close()
        await finds(indexer, PROMPT, {first.worker: 6})


async def two_that_tell_of_one_worker(duration_s: float, *, are_busy: bool) -> int:
    """Return how often all that there is was told."""
    host = Host()
    async with host.process() as one, host.process() as other, host.router() as indexer:
        publishers = [KvPublisher(endpoint_of(process), 77, BLOCK_SIZE) for process in (one, other)]
        for publisher in publishers:
            store(publisher, PROMPT)
        for second in range(int(duration_s)):
            for publisher in publishers if are_busy else ():
                store(publisher, tokens_hashes(1, first_token=10_000 + 10 * second))
            await asyncio.sleep(1.0)
        assert indexer.find(PROMPT) == {publishers[0].worker: 6}
        return indexer.stats().num_dumps


@pytest.mark.parametrize(("are_busy", "num_dumps"), [(False, 2), (True, 13)])
def test_a_worker_of_which_two_tell_is_seldom_taken_from_one_by_the_other(are_busy: bool, num_dumps: int) -> None:
    assert run(lambda _: two_that_tell_of_one_worker(600.0, are_busy=are_busy), 1) <= num_dumps


async def doubtful_events(*pauses_s: float) -> list[float]:
    """Say wrong things of a worker, with pauses in between, and return how long each time that was believed."""
    host, times_s = Host(), list[float]()
    async with host.worker() as publisher, host.router() as indexer:
        store(publisher, PROMPT)
        await finds(indexer, PROMPT, {publisher.worker: 6})
        for pause_s in pauses_s:
            await asyncio.sleep(pause_s)
            await forge(host, publisher, Removed(hashes(sequence_hashes(PROMPT)[0])))
            await forge(host, publisher, Stored(99, hashes(1), hashes(1)), later=1)
            await until(lambda: indexer.find(PROMPT) == {})
            before_s = asyncio.get_running_loop().time()
            while indexer.find(PROMPT) != {publisher.worker: 6}:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
            times_s.append(asyncio.get_running_loop().time() - before_s)
    return times_s


def test_what_is_wrong_now_and_then_is_right_again_at_once_each_time() -> None:
    assert max(run(lambda _: doubtful_events(*[700.0] * 7, 30.0), 1)) < 2.0


def test_what_is_wrong_again_and_again_is_right_again_after_a_pause_that_grows() -> None:
    times_s = run(lambda _: doubtful_events(*[0.0] * 4), 1)
    assert times_s[0] < 2.0 < times_s[1] <= 11.0 < times_s[2] <= 21.0 < times_s[3] <= 41.0


class Teller:
    """Publishes what it likes as the only source, and answers questions when it may."""

    def __init__(self, runtime: DistributedRuntime) -> None:
        self._runtime = runtime
        self.id = runtime.lease.id
        self.may_answer = asyncio.Event()
        self.was_asked = asyncio.Event()

    async def serve(self) -> ServedEndpoint:
        endpoint = self._runtime.endpoint("test.worker.kv_query")
        return await endpoint.serve(self._answer, request_type=KvQuery, drain_s=0.0)

    async def _answer(self, _: KvQuery) -> AsyncGenerator[KvAnswer, None]:
        self.was_asked.set()
        await self.may_answer.wait()
        yield KvAnswer(self.id, 0, BLOCK_SIZE, 9, 0, True, True, True, [])

    async def publish(self, event_id: int, *events: Stored) -> None:
        batch = KvEventBatch(self.id, 0, self.id, BLOCK_SIZE, 9, event_id, list(events))
        await self._runtime.events.publish(SUBJECT, batch)

    async def publish_garbage(self) -> None:
        await self._runtime.events.publish(SUBJECT, "garbage")


def row(first: int, count: int) -> Stored:
    names = hashes(*range(first, first + count))
    return Stored(None, names, names)


async def longest_turn(indexer: KvIndexer, num_blocks: int) -> int:
    """How many blocks an index took at most without others having their turn, until it has so many."""
    seen = [indexer.stats().num_blocks]
    async with asyncio.timeout(DEADLINE_S):
        while seen[-1] < num_blocks:
            await asyncio.sleep(0)
            seen.append(indexer.stats().num_blocks)
    return max(after - before for before, after in itertools.pairwise(seen))


async def test_others_have_their_turn_while_what_was_held_or_a_long_event_is_applied() -> None:
    host = Host()
    async with host.process() as process, host.router() as indexer:
        teller = Teller(process)
        await teller.serve()
        await teller.was_asked.wait()
        for number in range(40):
            await teller.publish(number + 1, row(1 + number * 1000, 1000))
        await teller.publish_garbage()
        await until(lambda: indexer.stats().faults.get("gap") == 1)  # all that was published was heard
        teller.may_answer.set()
        assert await longest_turn(indexer, 40_000) <= HASHES_PER_TURN
        await teller.publish(41, row(100_000, 50_000))
        assert await longest_turn(indexer, 90_000) <= HASHES_PER_TURN
        assert indexer.find(list(range(100_000, 150_000))) == {(teller.id, 0): 50_000}
        assert indexer.stats().faults == {"gap": 1}


@pytest.mark.parametrize("num_turns", range(4))
async def test_of_a_worker_that_leaves_while_much_is_applied_nothing_stays(num_turns: int) -> None:
    host = Host()
    async with host.process() as process, host.router() as indexer:
        teller = Teller(process)
        teller.may_answer.set()
        served = await teller.serve()
        await until(lambda: indexer.stats().num_answers == 1)
        await teller.publish(1, *(row(1 + number * 1000, 1000) for number in range(60)))
        for _ in range(num_turns):
            await asyncio.sleep(0)
        await served.close(drain_s=0.0)
        await teller.publish_garbage()
        await until(lambda: indexer.stats().faults.get("gap") == 1)  # all that was published was heard
        assert indexer.workers() == {}


async def test_what_is_said_while_much_is_applied_comes_after_it() -> None:
    host = Host()
    async with host.process() as process, host.router() as indexer:
        teller = Teller(process)
        await teller.serve()
        await teller.was_asked.wait()
        for number in range(40):
            await teller.publish(number + 1, row(1 + number * 1000, 1000))
        teller.may_answer.set()
        await until(lambda: indexer.stats().num_blocks > 0)
        for number in range(40, 80):
            await teller.publish(number + 1, row(1 + number * 1000, 1000))
        await until(lambda: indexer.stats().num_blocks >= 80_000)
        await indexer.synced()
        assert (indexer.stats().num_blocks, indexer.stats().num_answers) == (80_000, 1)


async def test_a_resync_is_no_cache_that_was_cleared() -> None:
    host = Host()
    async with host.worker() as publisher, host.router() as indexer:
        store(publisher, PROMPT)
        await finds(indexer, PROMPT, {publisher.worker: 6})
        num_dumps = indexer.stats().num_dumps
        await forge(host, publisher, Stored(99, hashes(1), hashes(1)))
        await until(lambda: indexer.stats().num_dumps == num_dumps + 1)
        assert indexer.stats().events["cleared"] == 0
        publisher.cleared()
        await finds(indexer, PROMPT, {})
        assert indexer.stats().events["cleared"] == 1

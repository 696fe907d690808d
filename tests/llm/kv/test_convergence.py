"""Events are lost, come twice and in another order, workers and publishers start anew, and the index is right again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.llm.kv.cache import RandomCache, prompts
from tests.llm.kv.scene import BLOCK_SIZE, Host, endpoint_of
from tests.sim.events import FaultyBus
from tests.sim.loop import SimLoop, run

from dynamo._core.event_plane.inproc import EventBus
from dynamo._core.prefix_index import WorkerKey
from dynamo.llm._kv_counted_index import KvIndexStats
from dynamo.llm._kv_indexer import KvIndexer
from dynamo.llm._kv_publisher import KvPublisher

#: Within so long after the last fault an index is right again, and knows everything after a start.
CONVERGED_S = 2.0
STARTED_S = 5.0
PROMPTS = prompts(12, 12)


class Worker:
    """A process whose cache changes until it is told to stop."""

    def __init__(self, host: Host, rng: random.Random) -> None:
        self._host = host
        self._rng = rng
        self._stack = AsyncExitStack()
        self._busy: asyncio.Task[None] | None = None
        self.publisher: KvPublisher | None = None
        self.cache: RandomCache | None = None

    async def start(self) -> None:
        """Begin anew, with nothing in the cache."""
        await self._stack.aclose()
        runtime = await self._stack.enter_async_context(self._host.process())
        self.publisher = KvPublisher(endpoint_of(runtime), kv_block_size=BLOCK_SIZE)
        self.cache = RandomCache(self.publisher, self._rng)

    async def work(self, duration_s: float) -> None:
        loop = asyncio.get_running_loop()
        until_s = loop.time() + duration_s
        while loop.time() < until_s:
            assert self.cache is not None
            if self._rng.random() < 0.01:
                await self._start_again()
            self.cache.step()
            await asyncio.sleep(self._rng.choice((0.0, 0.0, 0.001, 0.01, 0.3)))

    async def _start_again(self) -> None:
        """The process ends and another comes; or only its engine begins anew, in the same process."""
        assert self.publisher is not None
        if self._rng.random() < 0.5:
            await self.start()
        else:
            await self.publisher.close()
            self.publisher = KvPublisher(self.publisher.endpoint, kv_block_size=BLOCK_SIZE)
            self.cache = RandomCache(self.publisher, self._rng)

    def held(self, prompt: list[int]) -> dict[WorkerKey, int]:
        assert self.publisher is not None
        assert self.cache is not None
        count = self.cache.held(prompt)
        return {self.publisher.worker: count} if count else {}

    async def close(self) -> None:
        await self._stack.aclose()


@asynccontextmanager
async def some_workers(host: Host, rng: random.Random, count: int) -> AsyncIterator[list[Worker]]:
    workers = [Worker(host, rng) for _ in range(count)]
    try:
        for worker in workers:
            await worker.start()
        yield workers
    finally:
        for worker in workers:
            await worker.close()


def truth(workers: list[Worker], prompt: list[int]) -> dict[WorkerKey, int]:
    held: dict[WorkerKey, int] = {}
    for worker in workers:
        held |= worker.held(prompt)
    return held


async def is_right_within(indexer: KvIndexer, workers: list[Worker], deadline_s: float) -> bool:
    loop = asyncio.get_running_loop()
    until_s = loop.time() + deadline_s
    while any(indexer.find(prompt) != truth(workers, prompt) for prompt in PROMPTS):
        if loop.time() > until_s:
            return False
        await asyncio.sleep(0.05)
    return True


async def faults_and_peace(loop: SimLoop, seed: int) -> tuple[bool, bool, dict[str, int]]:
    """Returns whether an index was right soon after the faults, and another one soon after its start."""
    rng = random.Random(f"faults {seed}")
    bus = FaultyBus(loop)
    host = Host(bus, seed)
    async with some_workers(host, rng, 3) as workers, host.router(BLOCK_SIZE) as indexer:
        bus.badness = rng.choice((0.05, 0.3, 0.6))
        await asyncio.gather(*(worker.work(rng.uniform(1.0, 8.0)) for worker in workers))
        await asyncio.sleep(rng.uniform(0.0, 5.0))  # what is late comes after all
        bus.badness = 0.0
        is_right = await is_right_within(indexer, workers, CONVERGED_S)
        async with host.process() as runtime:
            restarted = KvIndexer(runtime.namespace("test").component("worker"), BLOCK_SIZE)
            is_back = await is_right_within(restarted, workers, STARTED_S)
        return is_right, is_back, dict(indexer.stats().faults)


@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=25, deadline=None)
def test_whatever_becomes_of_events_the_index_is_right_soon_after(seed: int) -> None:
    is_right, is_back, faults = run(lambda loop: faults_and_peace(loop, seed), seed)
    assert is_right, faults
    assert is_back


async def steps(bus: EventBus, num_steps: int = 200) -> KvIndexStats:
    """Let one worker work, and return what an index has counted in the end."""
    host = Host(bus, 1)
    async with some_workers(host, random.Random(1), 1) as workers, host.router() as indexer:
        for _ in range(num_steps):
            assert workers[0].cache is not None
            workers[0].cache.step()
            await asyncio.sleep(0.01)
        await asyncio.sleep(10.0)
        return indexer.stats()


def test_faults_are_seen_and_asked_about() -> None:
    def bad(loop: SimLoop) -> FaultyBus:
        bus = FaultyBus(loop)
        bus.badness = 0.6
        return bus

    stats = run(lambda loop: steps(bad(loop)), 1)
    assert stats.faults["missed"] > 0
    assert 1 < stats.num_answers < 200


def test_without_faults_a_worker_is_asked_once() -> None:
    stats = run(lambda _: steps(EventBus()), 1)
    assert stats.faults == {}
    assert stats.num_answers == 1

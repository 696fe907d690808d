"""Workers that tell of their KV blocks and routers that listen, on one host without sockets."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from dynamo._core.blocks import block_hashes, sequence_hashes
from dynamo._core.discovery.memory import MemoryDiscovery
from dynamo._core.event_plane.inproc import EventBus, InprocEventPlane
from dynamo._core.prefix_index import WorkerKey
from dynamo._core.request_plane.inproc import InprocPlane
from dynamo.llm._kv_indexer import KvIndexer
from dynamo.llm._kv_publisher import KvPublisher
from dynamo.runtime import DistributedRuntime, Endpoint

DEADLINE_S = 60.0
BLOCK_SIZE = 4
ENDPOINT = "test.worker.generate"


class Host:
    """Processes that find, call and hear each other."""

    def __init__(self, bus: EventBus | None = None, seed: object = 0) -> None:
        self.discovery = MemoryDiscovery()
        self.requests = InprocPlane()
        self.bus = bus or EventBus()
        self._random = random.Random(f"host {seed}")

    @asynccontextmanager
    async def process(self) -> AsyncIterator[DistributedRuntime]:
        """A process, until the end of the block."""
        rng = random.Random(self._random.random())
        events = InprocEventPlane(self.bus, random=rng)
        runtime = DistributedRuntime(discovery=self.discovery, request_plane=self.requests, event_plane=events, rng=rng)
        try:
            async with runtime:
                yield runtime
        finally:
            await events.close()

    @asynccontextmanager
    async def worker(self, dp_rank: int = 0, block_size: int = BLOCK_SIZE) -> AsyncIterator[KvPublisher]:
        """A process with a publisher."""
        async with self.process() as runtime:
            yield KvPublisher(endpoint_of(runtime), kv_block_size=block_size, dp_rank=dp_rank)

    @asynccontextmanager
    async def router(self, block_size: int = BLOCK_SIZE) -> AsyncIterator[KvIndexer]:
        """A process with an index, which knows what there is to know."""
        async with self.process() as runtime:
            indexer = KvIndexer(runtime.namespace("test").component("worker"), block_size)
            await indexer.synced(DEADLINE_S)
            yield indexer


def endpoint_of(runtime: DistributedRuntime) -> Endpoint:
    return runtime.endpoint(ENDPOINT)


def tokens_hashes(num_blocks: int, first_token: int = 0) -> list[int]:
    """The tokens hashes of a prompt that counts up from a token."""
    tokens = range(first_token, first_token + num_blocks * BLOCK_SIZE)
    return list(block_hashes(list(tokens), BLOCK_SIZE))


def store(publisher: KvPublisher, prompt: Sequence[int], held: int = 0) -> list[int]:
    """Have a worker store the blocks of a prompt behind the first `held`; returns the names of all."""
    names = list(sequence_hashes(prompt))
    publisher.stored(names[held - 1] if held else None, names[held:], prompt[held:])
    return names


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until something is true of objects that have no event for it."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def finds(indexer: KvIndexer, prompt: Sequence[int], expected: dict[WorkerKey, int]) -> None:
    """Wait until the index says so."""
    try:
        await until(lambda: indexer.find(prompt) == expected)
    except TimeoutError:
        raise AssertionError(f"{indexer.find(prompt)} instead of {expected}; {indexer.stats()}") from None

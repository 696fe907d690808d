"""An index that is too small for what workers hold: it knows less, nothing that is wrong, and troubles nobody."""

from __future__ import annotations

import asyncio
import random

import pytest
from tests.llm.kv.cache import RandomCache, prompts
from tests.llm.kv.scene import BLOCK_SIZE, Host, endpoint_of
from tests.sim.loop import run

from dynamo._core.event_plane.inproc import EventBus
from dynamo.llm._kv_counted_index import KvIndexStats
from dynamo.llm._kv_indexer import KvIndexer
from dynamo.llm._kv_publisher import KvPublisher

PROMPTS = prompts(12, 12)
BLOCKS_MAX = 40
HOUR_S = 3600.0


async def an_hour(seed: int) -> KvIndexStats:
    """Let the caches of two workers change for an hour, and hold the index against them all the time."""
    rng, host = random.Random(seed), Host(EventBus(), seed)
    async with host.process() as first, host.process() as second, host.process() as router:
        publishers = [KvPublisher(endpoint_of(runtime), kv_block_size=BLOCK_SIZE) for runtime in (first, second)]
        caches = {publisher.worker: RandomCache(publisher, rng) for publisher in publishers}
        indexer = KvIndexer(router.namespace("test").component("worker"), BLOCK_SIZE, blocks_max=BLOCKS_MAX)
        until_s = asyncio.get_running_loop().time() + HOUR_S
        while asyncio.get_running_loop().time() < until_s:
            for _ in range(rng.randrange(20)):
                rng.choice(list(caches.values())).step()
            await asyncio.sleep(2.0)  # what was said has been heard
            assert indexer.stats().num_unique_blocks <= BLOCKS_MAX
            for prompt in PROMPTS:
                found = indexer.find(prompt)
                assert all(count <= caches[worker].held(prompt) for worker, count in found.items())
        return indexer.stats()


@pytest.mark.parametrize("seed", range(3))
def test_a_full_index_knows_nothing_wrong_and_seldom_asks(seed: int) -> None:
    stats = run(lambda _: an_hour(seed), seed)
    assert stats.faults["unknown_parent"] > 100
    assert stats.num_blocks > 10
    # Two workers, after 10, 20, 40 s and so on, and then every ten minutes.
    assert stats.num_dumps < 40

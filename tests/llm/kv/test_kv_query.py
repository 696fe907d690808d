"""The endpoint at which routers ask what they have missed: there as long as a rank of the worker has something."""

from __future__ import annotations

import asyncio

import pytest
from tests.llm.kv.scene import BLOCK_SIZE, Host, endpoint_of, finds, store, tokens_hashes

from dynamo.llm._kv_publisher import KvPublisher

PROMPT, OTHER = tokens_hashes(3), tokens_hashes(3, first_token=1000)


@pytest.mark.parametrize("num_turns", range(12))
async def test_a_rank_that_begins_while_another_ends_can_be_asked(num_turns: int) -> None:
    host = Host()
    async with host.process() as runtime, host.router() as indexer:
        first = KvPublisher(endpoint_of(runtime), kv_block_size=BLOCK_SIZE, dp_rank=0)
        second = KvPublisher(endpoint_of(runtime), kv_block_size=BLOCK_SIZE, dp_rank=1)
        store(first, PROMPT)
        await finds(indexer, PROMPT, {first.worker: 3})
        ending = asyncio.create_task(first.close())
        for _ in range(num_turns):
            await asyncio.sleep(0)
        store(second, OTHER)
        await ending
        await finds(indexer, OTHER, {second.worker: 3})
        async with host.router() as late:
            await finds(late, OTHER, {second.worker: 3})
            assert late.find(PROMPT) == {}

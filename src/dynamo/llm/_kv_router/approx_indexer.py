"""`ApproxKvIndexer`: for routers of your own before engines that publish no events."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from dynamo._core._token_words import TokenIds
from dynamo._core.blocks import block_hash_list
from dynamo._core.prefix_index import WorkerKey
from dynamo._core.stability import stable
from dynamo.llm._kv_arguments import (
    DP_RANK_MAX,
    check_block_size,
    check_hashes,
    check_kind,
    check_number_or_none,
    check_text_or_none,
    check_tokens,
    check_whole,
    check_whole_or_none,
)
from dynamo.llm._kv_events import RouterEvent, dumped_events
from dynamo.llm._kv_indexer import lora_name_of
from dynamo.llm._kv_radix_tree import OverlapScores, overlap_scores
from dynamo.llm._kv_router.approx import TTL_S, ApproxIndex
from dynamo.runtime._component import Component


@stable(since="0.1")
class ApproxKvIndexer:
    """Finds which workers should have cached a prompt, by what they were sent during the last `ttl_secs`.

    For workers that publish no KV events: you tell it where each request went. `ttl_secs` are seconds above 0; None
    means that blocks count until a worker has room for no more, which `room_blocks` is of each. `kv_block_size` is the
    tokens in a block. To be made in the event loop; it asks nobody anything, and so needs no closing. `KvRouter` has
    one of its own with `KvRouterConfig(use_kv_events=False)`.

    Raises `InvalidArgument`, which names the parameter, for a value that makes no sense.
    """

    def __init__(
        self,
        component: Component,
        kv_block_size: int,
        ttl_secs: float | None = TTL_S,
        *,
        room_blocks: int | None = None,
    ) -> None:
        check_kind("component", component, Component, "runtime.namespace('ns').component('component')")
        check_block_size("kv_block_size", kv_block_size)
        check_number_or_none("ttl_secs", ttl_secs, above=0)
        check_whole_or_none("room_blocks", room_blocks, least=1)
        #: Whose workers these are.
        self.component: Component = component
        self._block_size = kv_block_size
        self._room_blocks = room_blocks
        self._index = ApproxIndex(ttl_s=ttl_secs)
        self._clock = asyncio.get_running_loop().time

    def block_size(self) -> int:
        """Tokens in a block."""
        return self._block_size

    async def process_routing_decision_for_request(
        self,
        tokens: TokenIds,
        worker_id: int,
        dp_rank: int = 0,
        *,
        lora_id: int | None = None,
        cache_namespace: str | None = None,
    ) -> None:
        """A request with these tokens was sent to a worker, which has them cached from now on.

        An adapter is known by its number here, `lora_id`; 0 is none.
        Raises `InvalidArgument` for arguments that make no sense.
        """
        check_whole("worker_id", worker_id)
        check_whole("dp_rank", dp_rank, most=DP_RANK_MAX)
        hashes = self._hashes(tokens, lora_id, cache_namespace)
        await self._expire()
        worker = WorkerKey(worker_id, dp_rank)
        self._index.note_sent(worker, hashes, self._clock(), room_blocks=self._room_blocks)

    def find(self, tokens_hashes: Sequence[int]) -> dict[WorkerKey, int]:
        """Return how many leading blocks of a prompt each worker should hold; those without any are absent.

        Of much that is over at the same moment, only some is forgotten here, and the rest is still found.
        """
        self._index.expire(self._clock())
        return self._index.find(tokens_hashes)

    async def find_matches_for_request(
        self, tokens: TokenIds, lora_id: int | None = None, *, cache_namespace: str | None = None
    ) -> OverlapScores[int]:
        """Find who should hold how many of the leading blocks of a prompt; see `KvIndexer.find_matches_for_request`."""
        return await self.find_matches(self._hashes(tokens, lora_id, cache_namespace))

    async def find_matches(self, hashes: Sequence[int]) -> OverlapScores[int]:
        """Do the same for the tokens hashes of a prompt's blocks; see `compute_block_hash_for_seq`."""
        check_hashes("hashes", hashes)
        await self._expire()
        best: dict[int, int] = {}
        for worker, count in self.find(hashes).items():
            best[worker.worker_id] = max(count, best.get(worker.worker_id, 0))
        return overlap_scores(best)

    def remove_worker(self, worker_id: int, dp_rank: int = 0) -> None:
        """A worker is gone, with all that it had cached."""
        check_whole("worker_id", worker_id)
        self._index.remove_worker(WorkerKey(worker_id, dp_rank))

    def dump_events(self) -> list[RouterEvent]:
        """Return what is known as events: applied in this order, they make the same index."""
        return list(dumped_events(self._index.dump()))

    def _hashes(self, tokens: TokenIds, lora_id: int | None, cache_namespace: str | None) -> list[int]:
        check_tokens("tokens", tokens)
        check_text_or_none("cache_namespace", cache_namespace)
        return block_hash_list(
            tokens, self._block_size, lora_name=lora_name_of(lora_id), cache_namespace=cache_namespace
        )

    async def _expire(self) -> None:
        """Forget all that was sent too long ago."""
        is_all = self._index.expire(self._clock())
        while not is_all:
            await asyncio.sleep(0)
            is_all = self._index.expire(self._clock())

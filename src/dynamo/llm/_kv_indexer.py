"""A router's view of every worker's KV cache: which of them holds how much of a prompt.

It follows all publishers of a component by itself, and finds what they have said: see `_kv_follower.py` for what
happens when events are lost. Finding waits for nobody.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence

from dynamo._core._prefix_names import IDS_MAX
from dynamo._core._token_words import TokenIds
from dynamo._core.blocks import block_hashes
from dynamo._core.errors import InvalidArgument
from dynamo._core.prefix_index import BLOCKS_MAX, WorkerKey
from dynamo._core.stability import stable
from dynamo.llm._kv_arguments import (
    check_block_size,
    check_hashes,
    check_kind,
    check_text_or_none,
    check_tokens,
    check_whole,
    check_whole_or_none,
)
from dynamo.llm._kv_counted_index import CountedIndex, HasIndexStats, KvIndexStats
from dynamo.llm._kv_events import DEVICE, RouterEvent, apply_event, dumped_events, read_data, to_u64s
from dynamo.llm._kv_faults import Fault, Faults
from dynamo.llm._kv_follower import KvFollower
from dynamo.llm._kv_radix_tree import OverlapScores, overlap_scores
from dynamo.runtime._component import Component

log = logging.getLogger(__name__)

SYNC_TIMEOUT_S = 10.0


@stable(since="0.1")
class KvIndexer(HasIndexStats):
    """An index of what the workers of a component have cached, made of the KV events that they publish.

        indexer = KvIndexer(component, kv_block_size=16)
        scores = await indexer.find_matches_for_request(token_ids)

    To be made in the event loop; it begins to follow at once, and ends with the runtime, by `close`, or as `async with`
    does. `kv_block_size` is the tokens in a block: publishers with another one are refused. It knows `blocks_max`
    blocks at most; those that were found or stored the longest ago go first. `KvRouter` has one of its own.

    Raises `InvalidArgument`, which names the parameter, for a value that makes no sense.
    """

    def __init__(self, component: Component, kv_block_size: int, *, blocks_max: int = BLOCKS_MAX) -> None:
        check_kind("component", component, Component, "runtime.namespace('ns').component('component')")
        check_block_size("kv_block_size", kv_block_size)
        check_whole("blocks_max", blocks_max, least=1, most=IDS_MAX - 1)
        self._block_size = kv_block_size
        self._index = CountedIndex(blocks_max=blocks_max)
        self._faults = Faults(log, f"KV index of {component.name}", asyncio.get_running_loop().time)
        self._follower = KvFollower(component, kv_block_size, self._index, self._faults)

    async def __aenter__(self) -> KvIndexer:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Follow nobody any more. A second call changes nothing."""
        await self._follower.close()

    async def synced(self, timeout_s: float = SYNC_TIMEOUT_S) -> None:
        """Wait until everybody who is there has told what they hold. Raises `DynamoError` after `timeout_s`."""
        await self._follower.synced(timeout_s)

    def block_size(self) -> int:
        """Tokens in a block."""
        return self._block_size

    def find(self, tokens_hashes: Sequence[int]) -> dict[WorkerKey, int]:
        """Return how many leading blocks of a prompt each rank of each worker holds; those without any are absent."""
        return self._index.find(tokens_hashes)

    def workers(self) -> dict[WorkerKey, int]:
        """Return how many blocks each rank of each worker holds."""
        return self._index.workers()

    async def find_matches_for_request(
        self, tokens: TokenIds, lora_id: int | None = None, *, cache_namespace: str | None = None
    ) -> OverlapScores[int]:
        """Find who holds how many of the leading blocks of a prompt. The keys of the scores are worker ids.

        A partial last block is ignored. Of a worker with several ranks it is the one that holds most. An adapter
        is known by its number here, `lora_id`, as it was published; 0 is none. `cache_namespace` is a tenant's salt.
        Raises `InvalidArgument` for arguments that make no sense.
        """
        check_tokens("tokens", tokens)
        check_text_or_none("cache_namespace", cache_namespace)
        lora_name = lora_name_of(lora_id)
        return self._scores(
            block_hashes(tokens, self._block_size, lora_name=lora_name, cache_namespace=cache_namespace)
        )

    async def find_matches(self, hashes: Sequence[int]) -> OverlapScores[int]:
        """Do the same for the tokens hashes of a prompt's blocks; see `compute_block_hash_for_seq`."""
        check_hashes("hashes", hashes)
        try:
            return self._scores(to_u64s(hashes))
        except (TypeError, ValueError) as error:
            raise InvalidArgument(f"hashes of blocks are integers from 0 to 2**64 - 1: {error}") from error

    def dump_events(self) -> list[RouterEvent]:
        """Return what is known as events: applied in this order, they make the same index."""
        return list(dumped_events(self._index.dump()))

    async def dump(self) -> AsyncIterator[RouterEvent]:
        """Yield the same while others on the loop have their turns: each worker as it was at some moment meanwhile."""
        for event in dumped_events(self._index.dump()):
            yield event
            await asyncio.sleep(0)

    def apply_event(self, event: RouterEvent) -> None:
        """Take an event from elsewhere, such as a recording. Nobody is asked if it does not fit."""
        worker = WorkerKey(event.worker_id, event.event.dp_rank)
        if event.storage_tier != DEVICE:
            self._faults.note(Fault.OTHER_MEDIUM, 1, f"an event of the tier {event.storage_tier!r} is ignored")
            return
        try:
            for one in read_data(event.event.data):
                self._faults.note_unapplied(apply_event(self._index, worker, one))
        except (TypeError, ValueError) as error:
            self._faults.note(Fault.MALFORMED, 1, f"an event is ignored: {error}")

    def stats(self) -> KvIndexStats:
        """Return how large the index is, and what happened."""
        sources = self._follower.sources
        return KvIndexStats(
            is_following=self._follower.is_following,
            num_workers=self._index.num_workers,
            num_blocks=self._index.num_blocks,
            num_unique_blocks=self._index.num_unique_blocks,
            num_publishers=len(sources),
            num_refused=sum(map(bool, sources.values())),
            events=self._index.events,
            num_answers=self._follower.num_answers,
            num_dumps=self._follower.num_dumps,
            faults=self._faults.counts,
        )

    def sources(self) -> dict[int, str]:
        """Who tells of KV blocks, by instance id, and why one is not listened to; an empty text if it is."""
        return self._follower.sources

    def _scores(self, tokens_hashes: Sequence[int]) -> OverlapScores[int]:
        best: dict[int, int] = {}
        for worker, count in self._index.find(tokens_hashes).items():
            best[worker.worker_id] = max(count, best.get(worker.worker_id, 0))
        return overlap_scores(best)


def lora_name_of(lora_id: int | None) -> str | None:
    """Return the name of an adapter that is only known by its number; 0 is none.

    Raises `InvalidArgument` for what is no number.
    """
    check_whole_or_none("lora_id", lora_id)
    return str(lora_id) if lora_id else None

"""The index of KV blocks as a plain object, fed with events as JSON: for routers of one's own."""

from __future__ import annotations

import heapq
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import msgspec

from dynamo._core.errors import InvalidArgument
from dynamo._core.prefix_index import PrefixIndex, WorkerKey
from dynamo._core.stability import stable
from dynamo.llm._kv_arguments import check_hashes, check_whole
from dynamo.llm._kv_events import DEVICE, KvCacheEvent, KvCacheEventData, apply_event, dumped_events, read_data, to_u64s
from dynamo.llm._kv_faults import Fault, Faults
from dynamo.llm._numbers import shown

log = logging.getLogger(__name__)

K = TypeVar("K")


@stable(since="0.1")
@dataclass(frozen=True)
class OverlapScores(Generic[K]):
    """How much of a prompt is cached where."""

    #: How many of its leading blocks each worker holds; workers without any are absent.
    scores: dict[K, int] = field(default_factory=dict)
    #: How many workers hold its first block, its first two, and so on, as long as one does.
    frequencies: list[int] = field(default_factory=list)


def overlap_scores(found: Mapping[K, int], *, early_exit: bool = False) -> OverlapScores[K]:
    """Count how many workers hold each block. With `early_exit` counting ends where only one worker is left."""
    scores = dict(found)
    if early_exit and scores:
        last = sum(heapq.nlargest(2, [0, *scores.values()])[1:]) + 1
        scores = {worker: min(count, last) for worker, count in scores.items()}
    frequencies = [0] * max(scores.values(), default=0)
    for count in scores.values():
        frequencies[count - 1] += 1
    for depth in range(len(frequencies) - 2, -1, -1):
        frequencies[depth] += frequencies[depth + 1]
    return OverlapScores(scores, frequencies)


class _Event(msgspec.Struct):
    """An event by itself, or with the worker around it."""

    event: KvCacheEvent | None = None
    event_id: int = 0
    dp_rank: int = 0
    data: KvCacheEventData | None = None
    storage_tier: str = DEVICE


_decoder = msgspec.json.Decoder(_Event)
_encoder = msgspec.json.Encoder()


@stable(since="0.1")
class RadixTree:
    """Which worker holds which prefix, as a plain object without a runtime: you bring it the events.

        tree = RadixTree()
        tree.apply_event(worker_id, b'{"event_id": 1, "data": {"stored": {...}}}')
        tree.find_matches(compute_block_hash_for_seq(token_ids, 16)).scores

    Blocks that do not fit, such as those behind one that nobody stored, change nothing and are counted in `faults`.
    """

    def __init__(self) -> None:
        self._index = PrefixIndex()
        self._faults = Faults(log, "RadixTree", time.monotonic)

    @property
    def num_blocks(self) -> int:
        """Blocks of all workers; a block that two workers hold counts twice."""
        return self._index.num_blocks

    @property
    def num_workers(self) -> int:
        """Ranks of workers."""
        return self._index.num_workers

    @property
    def faults(self) -> Mapping[str, int]:
        """How often an event, or a block of one, had no effect, by reason."""
        return self._faults.counts

    def find_matches(self, hashes: Sequence[int], early_exit: bool = False) -> OverlapScores[WorkerKey]:
        """Find who holds the blocks with these tokens hashes; see `compute_block_hash_for_seq`.

        The keys of the scores are `(worker_id, dp_rank)`. With `early_exit` counting ends where one worker is left.
        Raises `InvalidArgument` for what are no hashes.
        """
        check_hashes("hashes", hashes)
        try:
            return overlap_scores(self._index.find(to_u64s(hashes)), early_exit=early_exit)
        except (TypeError, ValueError) as error:
            raise InvalidArgument(f"hashes of blocks are integers from 0 to 2**64 - 1: {error}") from error

    def apply_event(self, worker_id: int, json_bytes: bytes | str) -> None:
        """Take an event of a worker as JSON: `{"event_id", "dp_rank", "data"}`, or a `RouterEvent` around that.

        Raises `InvalidArgument` if it is neither, or for a worker id that is none.
        """
        check_whole("worker_id", worker_id)
        try:
            read = _decoder.decode(json_bytes)
            one = read.event or KvCacheEvent(read.event_id, _given(read.data), read.dp_rank)
            events = list(read_data(one.data))
        except (ValueError, TypeError, RecursionError) as error:
            raise InvalidArgument(f"json_bytes is {shown(json_bytes)}, which is no KV event: {error}") from error
        worker = WorkerKey(worker_id, one.dp_rank)
        if read.storage_tier != DEVICE:
            self._faults.note(Fault.OTHER_MEDIUM, len(events), f"events of the tier {read.storage_tier!r} are ignored")
            return
        for change in events:
            self._faults.note_unapplied(apply_event(self._index, worker, change))

    def remove_worker(self, worker_id: int) -> None:
        """Forget a worker with all its ranks; one that is not known is no error.

        It is found no more from now on. Its memory is taken back bit by bit, now and with each event that is stored.
        """
        check_whole("worker_id", worker_id)
        for worker in self._index.workers():
            if worker.worker_id == worker_id:
                self._index.remove_worker(worker)
        self._index.reclaim()

    def clear_all_blocks(self, worker_id: int) -> None:
        """Have a worker hold nothing, at any of its ranks."""
        self.remove_worker(worker_id)

    def dump_tree_as_events(self) -> list[str]:
        """Return `RouterEvent`s as JSON: applied in this order, they make the same tree."""
        return [_encoder.encode(event).decode() for event in dumped_events(self._index.dump())]


def _given(data: KvCacheEventData | None) -> KvCacheEventData:
    if data is None:
        raise ValueError("it has no data")
    return data

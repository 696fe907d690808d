"""What every cache of a simulated cluster holds, at once and exactly: an oracle, which no router in the world has.

Real routers hear of blocks by events, which take their time. The oracle is told by the engines themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

from dynamo._core.prefix_index import PrefixIndex, WorkerKey
from dynamo.llm import Candidate
from dynamo.llm._kv_events import KvEventSink


class Truth:
    """Which worker holds what. It answers like the index of a router."""

    def __init__(self) -> None:
        self._index = PrefixIndex()

    def find(self, tokens_hashes: Sequence[int]) -> dict[WorkerKey, int]:
        """Return how many leading blocks of a prompt each rank of each worker holds; those without any are absent."""
        return self._index.find(tokens_hashes)

    def workers(self) -> dict[WorkerKey, int]:
        """Return how many blocks each rank of each worker holds."""
        return self._index.workers()

    def told_by(self, sink: KvEventSink, worker: WorkerKey) -> ToldSink:
        """Return what an engine is to tell its events to in place of `sink`, which hears of all of them, too."""
        return ToldSink(sink, self._index, worker)


class ToldSink:
    """Passes the events of one rank on, and keeps the truth. A `KvEventSink`."""

    def __init__(self, sink: KvEventSink, index: PrefixIndex, worker: WorkerKey) -> None:
        self._sink = sink
        self._index = index
        self._worker = worker

    def stored(
        self,
        parent_hash: int | None,
        block_hashes: Sequence[int],
        tokens_hashes: Sequence[int] | None = None,
        *,
        token_ids: Sequence[int] | None = None,
    ) -> None:
        assert tokens_hashes is not None, "a simulated engine says them"
        self._index.store(self._worker, parent_hash, block_hashes, tokens_hashes)
        self._sink.stored(parent_hash, block_hashes, tokens_hashes, token_ids=token_ids)

    def removed(self, block_hashes: Sequence[int]) -> None:
        self._index.remove(self._worker, block_hashes)
        self._sink.removed(block_hashes)

    def cleared(self) -> None:
        self._index.clear(self._worker)
        self._sink.cleared()


def most_cached(candidates: list[Candidate]) -> Candidate:
    """The worker that has most of the prompt, and of several the cheapest."""
    return min(candidates, key=lambda one: (-one.overlap_blocks, one.cost, one.active_requests, one.worker_id))

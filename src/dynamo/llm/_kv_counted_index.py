"""An index of KV blocks that counts what it was told, and what whoever exports metrics reads of one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dynamo._core.prefix_index import Applied, PrefixIndex, WorkerKey


@dataclass(frozen=True, slots=True)
class KvIndexStats:
    """How large an index is, and what happened."""

    #: Whether events are heard now.
    is_following: bool
    num_workers: int
    num_blocks: int
    num_unique_blocks: int
    #: Who tells of KV blocks, and those of them that are not listened to.
    num_publishers: int
    num_refused: int
    #: What was applied, by kind: `stored`, `removed` and `cleared`.
    events: Mapping[str, int]
    #: Answers of workers that were asked what was missing, and those of them that told everything.
    num_answers: int
    num_dumps: int
    faults: Mapping[str, int]


class HasIndexStats(ABC):
    """Knows by events who holds which blocks, and says how that goes."""

    @abstractmethod
    def stats(self) -> KvIndexStats:
        """Return how large the index is, and what happened."""


class CountedIndex(PrefixIndex):
    """Counts the events that it is told of, whether they fit or not."""

    num_stored = 0
    num_removed = 0
    num_cleared = 0

    def store(
        self,
        worker: WorkerKey,
        parent_hash: int | None,
        block_hashes: Sequence[int],
        tokens_hashes: Sequence[int],
    ) -> Applied:
        self.num_stored += 1
        return super().store(worker, parent_hash, block_hashes, tokens_hashes)

    def remove(self, worker: WorkerKey, block_hashes: Sequence[int]) -> Applied:
        self.num_removed += 1
        return super().remove(worker, block_hashes)

    def clear(self, worker: WorkerKey) -> None:
        self.num_cleared += 1
        super().clear(worker)

    def remove_worker(self, worker: WorkerKey) -> None:
        super().clear(worker)

    @property
    def events(self) -> Mapping[str, int]:
        """How many of each kind."""
        return {"stored": self.num_stored, "removed": self.num_removed, "cleared": self.num_cleared}

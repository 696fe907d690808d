"""A listener that believes what it is told: the set of blocks that an engine's events add up to."""

from __future__ import annotations

from collections.abc import Sequence

from dynamo._core.blocks import block_hashes as hash_blocks
from dynamo._core.blocks import sequence_hashes


class NaiveSink:
    """Keeps the blocks that are stored, and complains of an event that cannot be."""

    def __init__(self, block_size: int) -> None:
        self.block_hashes: set[int] = set()
        self.events: list[str] = []
        self._block_size = block_size
        self._children: dict[int, set[int]] = {}
        self._parents: dict[int, int | None] = {}

    def stored(
        self,
        parent_hash: int | None,
        block_hashes: Sequence[int],
        tokens_hashes: Sequence[int] | None = None,
        *,
        token_ids: Sequence[int] | None = None,
    ) -> None:
        self.events.append("stored")
        assert block_hashes
        assert parent_hash is None or parent_hash in self.block_hashes, "stored after a block that is not there"
        assert self.block_hashes.isdisjoint(block_hashes), "stored twice"
        assert tokens_hashes is not None
        assert token_ids is not None
        assert len(token_ids) == len(block_hashes) * self._block_size
        assert list(hash_blocks(list(token_ids), self._block_size)) == list(tokens_hashes)
        assert list(sequence_hashes(tokens_hashes, parent_hash)) == list(block_hashes)
        for block_hash in block_hashes:
            self.block_hashes.add(block_hash)
            self._parents[block_hash] = parent_hash
            if parent_hash is not None:
                self._children.setdefault(parent_hash, set()).add(block_hash)
            parent_hash = block_hash

    def removed(self, block_hashes: Sequence[int]) -> None:
        self.events.append("removed")
        assert block_hashes
        for block_hash in block_hashes:
            self.block_hashes.remove(block_hash)
            assert not self._children.pop(block_hash, set()), "removed before a block that continues it"
            parent = self._parents.pop(block_hash)
            if parent is not None:
                self._children[parent].remove(block_hash)

    def cleared(self) -> None:
        self.events.append("cleared")
        self.block_hashes.clear()
        self._children.clear()
        self._parents.clear()

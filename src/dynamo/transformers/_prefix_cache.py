"""The prefix cache: what requests have computed is kept in blocks, for those that begin in the same way.

A prompt's blocks are kept when it has been read, and those of its answer when the request leaves, so that steps in
between have nothing to do with it. On a CPU, 32 requests at a time that share nothing pay 2.6 % of their time for that
with a model of 0.3 million parameters, whose steps are as short as steps get, and 1.9 % with one of 6 million. With
2,000 of 2,020 tokens of a prompt cached, its first token comes 13 times sooner.
"""

from __future__ import annotations

from collections.abc import Sequence

from dynamo.llm._kv_events import KvEventSink
from dynamo.transformers._block_pool import BlockPool
from dynamo.transformers._kv_blocks import KvBlocks
from dynamo.transformers._kv_cache import RowsCache
from dynamo.transformers._row import Row


class PrefixCache:
    """Finds, loads and keeps prefixes. With no blocks it finds nothing and keeps nothing."""

    def __init__(self, num_blocks: int, block_size: int, sink: KvEventSink | None = None) -> None:
        self._block_size = block_size
        self._pool = BlockPool(num_blocks, block_size, sink)
        self._blocks = KvBlocks(num_blocks, block_size)

    @property
    def num_blocks(self) -> int:
        return self._pool.num_blocks

    @property
    def num_kept(self) -> int:
        """Blocks that can be found."""
        return self._pool.num_kept

    @property
    def block_hashes(self) -> frozenset[int]:
        """What can be found: the hash of each block, which names it and all before it."""
        return self._pool.block_hashes

    def num_found(self, row: Row) -> int:
        """How many tokens of a row are in blocks. At least one is left, since something must be computed."""
        if not self.num_blocks:
            return 0
        row.chain.extend(row.token_ids, self._block_size)
        return self._pool.num_found(row.chain, self._num_usable(row)) * self._block_size

    def will_be_found(self, row: Row, num_found: int, others: Sequence[Row]) -> bool:
        """Whether more of a row than `num_found` tokens is found as soon as the others have been read."""
        index = num_found // self._block_size
        if index >= min(self._num_usable(row), self.num_blocks):
            return False
        following = row.chain.block_hashes[index : index + 1]
        return any(other.chain.block_hashes[index : index + 1] == following for other in others)

    def load(self, rows: Sequence[Row], width: int, num_columns: int, cache: RowsCache) -> None:
        """Fill the first columns of an empty cache with what was found of rows that will be `width` wide."""
        self._blocks.open(len(rows), num_columns, cache)
        for index, row in enumerate(rows):
            pad = width - len(row.token_ids)
            if pad < num_columns:
                places = self._pool.use(row.chain, -(-(num_columns - pad) // self._block_size))
                self._blocks.read(places, cache, index, pad, num_columns)

    def keep(self, row: Row, num_tokens: int, cache: RowsCache, index: int) -> None:
        """Keep the full blocks of a row, whose first `num_tokens` tokens are the end of row `index` of the cache."""
        if not self.num_blocks:
            return
        row.chain.extend(row.token_ids, self._block_size)
        first, places = self._pool.keep(row.chain, num_tokens // self._block_size, row.token_ids)
        if places:
            self._blocks.write(places, cache, index, cache.width - num_tokens + first * self._block_size)

    def _num_usable(self, row: Row) -> int:
        """How many blocks of a row may come from the cache."""
        return (len(row.token_ids) - 1) // self._block_size

"""Which blocks of keys and values are kept, where, and which go when room is needed.

A block is kept under the hash of all tokens up to its end and of their salt, so equal hashes mean equal prefixes of one
tenant. What is kept is always whole prefixes: a block goes only after all that continue it. To that end, whenever a
prefix is used, its blocks become the last to go, the first of them last of all.

Nobody holds a block, so there is nothing to count: a request copies the keys and values out when it begins, and no
other call comes between finding them and that. What runs therefore never depends on what is kept.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence

from dynamo._core.blocks import block_hashes, sequence_hashes
from dynamo.llm._kv_events import KvEventSink


class BlockChain:
    """The hashes of the full blocks of a sequence that grows, as far as somebody asked.

    Raises `InvalidArgument` for a salt that cannot be hashed.
    """

    __slots__ = ("_cache_salt", "block_hashes", "tokens_hashes")

    def __init__(self, cache_salt: str | None = None) -> None:
        # To find out later would end the thread of the model.
        block_hashes((), 1, cache_namespace=cache_salt)
        self._cache_salt = cache_salt
        self.tokens_hashes = array("Q")
        self.block_hashes = array("Q")

    def extend(self, token_ids: Sequence[int], block_size: int) -> None:
        """Know the hashes of all full blocks of the sequence, which is `token_ids` now."""
        known = len(self.block_hashes)
        if len(token_ids) // block_size == known:
            return
        added = block_hashes(token_ids[known * block_size :], block_size, cache_namespace=self._cache_salt)
        self.tokens_hashes.extend(added)
        self.block_hashes.extend(sequence_hashes(added, self.block_hashes[-1] if known else None))


class BlockPool:
    """So many places for blocks. What is kept, and what goes, is told to `sink`."""

    def __init__(self, num_blocks: int, block_size: int, sink: KvEventSink | None = None) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._sink = sink
        # The only mutable state: the place of each block, the first to go first. A place gets another block and is
        # never given back, so those in use are always the first ones, and memory is touched no earlier than needed.
        self._places: OrderedDict[int, int] = OrderedDict()

    @property
    def num_kept(self) -> int:
        """Blocks that can be found."""
        return len(self._places)

    @property
    def block_hashes(self) -> frozenset[int]:
        """What can be found."""
        return frozenset(self._places)

    def num_found(self, chain: BlockChain, limit: int) -> int:
        """How many of the first `limit` blocks of a sequence are kept, up to the first that is not."""
        for index in range(limit):
            if chain.block_hashes[index] not in self._places:
                return index
        return limit

    def use(self, chain: BlockChain, count: int) -> list[int]:
        """Return the places of the first `count` blocks, which are kept; from now on they are the last to go."""
        hashes = chain.block_hashes[:count]
        for block_hash in reversed(hashes):
            self._places.move_to_end(block_hash)
        return [self._places[block_hash] for block_hash in hashes]

    def keep(self, chain: BlockChain, count: int, token_ids: Sequence[int]) -> tuple[int, list[int]]:
        """Keep the first `count` blocks of a sequence, or as many as there are places.

        Return how many of them were kept already, and the places of the others, which the caller fills.
        """
        count = min(count, self.num_blocks)
        first = self.num_found(chain, count)
        # Those that go are never of this sequence: its own were just used, and all of them have room.
        self.use(chain, first)
        places = self._take(count - first)
        self._places.update(zip(chain.block_hashes[first:count], places, strict=True))
        self.use(chain, count)
        if places and self._sink is not None:
            self._sink.stored(
                chain.block_hashes[first - 1] if first else None,
                chain.block_hashes[first:count],
                chain.tokens_hashes[first:count],
                token_ids=token_ids[first * self.block_size : count * self.block_size],
            )
        return first, places

    def _take(self, count: int) -> list[int]:
        """Return so many places, for which blocks go if need be; side by side, if a whole sequence went."""
        gone: list[int] = []
        places: list[int] = []
        for _ in range(count):
            num_used = len(self._places) + len(places)
            if num_used < self.num_blocks:
                places.append(num_used)
            else:
                block_hash, place = self._places.popitem(last=False)
                gone.append(block_hash)
                places.append(place)
        if gone and self._sink is not None:
            self._sink.removed(gone)
        return sorted(places)

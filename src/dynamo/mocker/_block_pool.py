"""The KV cache of a simulated engine, in blocks: who holds which, what is in them, and what has to go.

A block is blank, held or kept. Blank blocks have no content. Held ones are of one or several sequences. Kept
ones are of nobody, and stay until room is needed: those that were given back first go first.

A block may be found, and held by others, once it is full: it is then written under the hash of all tokens up to its
end, of their adapter and of their salt, and never again. Two blocks never have the same hash. A sequence that holds a
block holds all those before it, and gives them back from the last to the first, so no block goes before those that
continue it: what is written is always whole prefixes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from dynamo.llm._kv_events import KvEventSink


class Block:
    """Room for the keys and values of `block_size` tokens."""

    __slots__ = ("block_hash", "num_holders")

    def __init__(self) -> None:
        self.num_holders = 1
        #: What is in it, once it is full; None before.
        self.block_hash: int | None = None


class BlockPool:
    """So many blocks. What is written, and what goes, is told to `sink`."""

    def __init__(self, num_blocks: int, sink: KvEventSink | None = None) -> None:
        self.num_blocks = num_blocks
        self._sink = sink
        # The mutable state. Blocks that are blank are only counted.
        self._num_blank = num_blocks
        self._written: dict[int, Block] = {}
        # Those of the written ones that nobody holds, the first to go first.
        self._kept: OrderedDict[int, Block] = OrderedDict()

    @property
    def num_free(self) -> int:
        """Blocks that can be taken: the blank ones and the kept ones."""
        return self._num_blank + len(self._kept)

    @property
    def num_held(self) -> int:
        """Blocks that sequences hold."""
        return self.num_blocks - self.num_free

    @property
    def usage(self) -> float:
        """The share of the blocks that is held, from 0 to 1."""
        return self.num_held / self.num_blocks

    @property
    def num_written(self) -> int:
        """Blocks whose content can be found, held or kept."""
        return len(self._written)

    @property
    def block_hashes(self) -> frozenset[int]:
        """What is written."""
        return frozenset(self._written)

    def num_found(self, block_hashes: Sequence[int], limit: int) -> int:
        """How many of the first `limit` blocks of a sequence are there, up to the first that is not."""
        for index in range(limit):
            if block_hashes[index] not in self._written:
                return index
        return limit

    def take(self, found: Iterable[int], num_new: int) -> list[Block] | None:
        """Hold blocks that were found and `num_new` others; None, and nothing has changed, if there is no room."""
        blocks = [self._written[block_hash] for block_hash in found]
        num_woken = sum(not block.num_holders for block in blocks)
        if num_new > self.num_free - num_woken:
            return None
        for block in blocks:
            self._hold(block)
        self._make_blank(num_new)
        self._num_blank -= num_new
        blocks.extend(Block() for _ in range(num_new))
        return blocks

    def write(
        self,
        blocks: list[Block],
        begin: int,
        block_hashes: Sequence[int],
        tokens_hashes: Sequence[int],
        token_ids: Sequence[int],
    ) -> None:
        """Take what is in the blocks of a sequence, from number `begin` on, which have become full, for found.

        `block_hashes` are those of all its blocks, `tokens_hashes` and `token_ids` of the new ones. Where
        another sequence has written the same in the meantime, its block takes the place of the one in the list.
        """
        end = begin + len(tokens_hashes)
        first = begin
        while first < end and (other := self._written.get(block_hashes[first])) is not None:
            self._hold(other)
            blocks[first] = other
            self._num_blank += 1
            first += 1
        if first == end:
            return
        for index in range(first, end):
            block, block_hash = blocks[index], block_hashes[index]
            assert (block.block_hash, block.num_holders) == (None, 1)
            assert block_hash not in self._written
            block.block_hash = block_hash
            self._written[block_hash] = block
        if self._sink is not None:
            size = len(token_ids) // len(tokens_hashes)
            self._sink.stored(
                block_hashes[first - 1] if first else None,
                block_hashes[first:end],
                tokens_hashes[first - begin :],
                token_ids=token_ids[(first - begin) * size :],
            )

    def release(self, blocks: Sequence[Block]) -> None:
        """Give back what a sequence holds. What is written stays findable until the room is needed."""
        for block in reversed(blocks):
            block.num_holders -= 1
            if block.num_holders:
                continue
            if block.block_hash is None:
                self._num_blank += 1
            else:
                self._kept[block.block_hash] = block

    def clear(self) -> bool:
        """Forget all that is written; False, and nothing has changed, if some of it is held."""
        if len(self._kept) < len(self._written):
            return False
        self._num_blank += len(self._kept)
        self._kept.clear()
        self._written.clear()
        if self._sink is not None:
            self._sink.cleared()
        return True

    def check(self, holdings: Iterable[Sequence[Block]]) -> None:
        """Assert that every block is accounted for, given what each sequence holds."""
        counts: dict[Block, int] = {}
        for blocks in holdings:
            assert len(set(blocks)) == len(blocks), "a sequence holds a block twice"
            for block in blocks:
                counts[block] = counts.get(block, 0) + 1
        for block, count in counts.items():
            assert block.num_holders == count, f"{count} hold a block, and it counts {block.num_holders}"
            assert count == 1 or block.block_hash is not None, "a block is shared, and not full"
            assert block.block_hash is None or self._written.get(block.block_hash) is block, "two blocks with one hash"
        for block_hash, block in self._written.items():
            assert block.block_hash == block_hash
            assert (block_hash in self._kept) == (block not in counts), "a written block is neither held nor kept"
        assert self._kept.keys() <= self._written.keys()
        assert self._num_blank >= 0
        assert self._num_blank + len(self._kept) + len(counts) == self.num_blocks, "blocks were lost or made"

    def _hold(self, block: Block) -> None:
        if not block.num_holders:
            assert block.block_hash is not None
            del self._kept[block.block_hash]
        block.num_holders += 1

    def _make_blank(self, count: int) -> None:
        """See to it that so many blocks are blank."""
        gone: list[int] = []
        while self._num_blank < count:
            block_hash, _ = self._kept.popitem(last=False)
            del self._written[block_hash]
            gone.append(block_hash)
            self._num_blank += 1
        if gone and self._sink is not None:
            self._sink.removed(gone)

"""The block pool: who holds what, what is found, and what goes first."""

from __future__ import annotations

from array import array

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from tests.mocker.sink import NaiveSink

from dynamo._core.blocks import block_hashes, sequence_hashes
from dynamo.mocker._block_pool import Block, BlockPool

BLOCK_SIZE = 2


class Holder:
    """A sequence as the pool sees it: so many blocks, of which the first `num_written` are full."""

    def __init__(self, token_ids: list[int]) -> None:
        self.token_ids = array("I", token_ids)
        self.tokens_hashes = block_hashes(self.token_ids, BLOCK_SIZE)
        self.block_hashes = sequence_hashes(self.tokens_hashes)
        self.blocks: list[Block] = []
        self.num_written = 0

    def enter(self, pool: BlockPool) -> bool:
        found = pool.num_found(self.block_hashes, len(self.block_hashes))
        blocks = pool.take(self.block_hashes[:found], len(self.block_hashes) - found)
        if blocks is None:
            return False
        self.blocks, self.num_written = blocks, found
        return True

    def write(self, pool: BlockPool, end: int) -> None:
        begin, self.num_written = self.num_written, end
        tokens = self.token_ids[begin * BLOCK_SIZE : end * BLOCK_SIZE]
        pool.write(self.blocks, begin, self.block_hashes, self.tokens_hashes[begin:end], tokens)


def entered(pool: BlockPool, token_ids: list[int], *, written: bool = True) -> Holder:
    holder = Holder(token_ids)
    assert holder.enter(pool)
    if written:
        holder.write(pool, len(holder.blocks))
    return holder


def test_a_block_is_found_once_it_is_written_and_not_before() -> None:
    pool, other = BlockPool(8), Holder([1, 2, 3, 4])
    holder = entered(pool, [1, 2, 3, 4], written=False)
    assert pool.num_found(other.block_hashes, 2) == 0
    holder.write(pool, 1)
    assert pool.num_found(other.block_hashes, 2) == 1
    holder.write(pool, 2)
    assert pool.num_found(other.block_hashes, 2) == 2


def test_equal_tokens_after_others_are_not_the_same_block() -> None:
    pool = BlockPool(8)
    entered(pool, [1, 2, 3, 4])
    assert pool.num_found(Holder([3, 4]).block_hashes, 1) == 0


def test_what_is_given_back_is_found_until_its_room_is_needed() -> None:
    sink = NaiveSink(BLOCK_SIZE)
    pool = BlockPool(3, sink)
    holder = entered(pool, [1, 2, 3, 4])
    pool.release(holder.blocks)
    assert (pool.num_free, pool.num_held, pool.num_written) == (3, 0, 2)
    entered(pool, [5, 6], written=False)
    assert pool.num_found(holder.block_hashes, 2) == 2
    entered(pool, [7, 8], written=False)
    assert pool.num_found(holder.block_hashes, 2) == 1, "the last block of a prefix goes first"
    assert sink.events == ["stored", "removed"]


def test_what_was_used_last_goes_last() -> None:
    pool = BlockPool(3)
    first, second = entered(pool, [1, 2]), entered(pool, [3, 4])
    pool.release(first.blocks)
    pool.release(second.blocks)
    pool.release(entered(pool, [1, 2]).blocks)
    entered(pool, [5, 6, 7, 8], written=False)
    assert pool.num_found(first.block_hashes, 1) == 1
    assert pool.num_found(second.block_hashes, 1) == 0


def test_two_that_write_the_same_hold_one_block_afterwards() -> None:
    sink = NaiveSink(BLOCK_SIZE)
    pool = BlockPool(4, sink)
    one, two = entered(pool, [1, 2, 3, 4], written=False), entered(pool, [1, 2, 3, 4], written=False)
    assert pool.num_free == 0
    one.write(pool, 1)
    two.write(pool, 2)
    one.write(pool, 2)
    assert one.blocks == two.blocks
    assert pool.num_free == 2
    assert sink.events == ["stored", "stored"]
    pool.check([one.blocks, two.blocks])


def test_taking_more_than_there_is_changes_nothing() -> None:
    pool = BlockPool(3)
    kept = entered(pool, [1, 2, 3, 4])
    pool.release(kept.blocks)
    assert pool.take(kept.block_hashes, 2) is None
    pool.check([])
    assert pool.num_found(kept.block_hashes, 2) == 2


def test_clearing_forgets_everything_unless_somebody_holds_some_of_it() -> None:
    sink = NaiveSink(BLOCK_SIZE)
    pool = BlockPool(3, sink)
    holder = entered(pool, [1, 2])
    assert not pool.clear()
    assert pool.num_written == 1
    pool.release(holder.blocks)
    assert pool.clear()
    assert (pool.num_written, pool.num_free, sink.events[-1]) == (0, 3, "cleared")


class PoolMachine(RuleBasedStateMachine):
    """Whatever happens, blocks are neither lost nor made, and the events say what is there."""

    holders: Bundle[Holder] = Bundle("holders")

    def __init__(self) -> None:
        super().__init__()
        self.sink = NaiveSink(BLOCK_SIZE)
        self.pool = BlockPool(6, self.sink)
        self.inside: list[Holder] = []

    @rule(target=holders, token_ids=st.lists(st.integers(0, 1), min_size=BLOCK_SIZE, max_size=10))
    def enter(self, token_ids: list[int]) -> Holder:
        holder = Holder(token_ids)
        if holder.enter(self.pool):
            self.inside.append(holder)
        return holder

    @rule(holder=holders, data=st.data())
    def write(self, holder: Holder, data: st.DataObject) -> None:
        if holder in self.inside and holder.num_written < len(holder.blocks):
            holder.write(self.pool, data.draw(st.integers(holder.num_written + 1, len(holder.blocks))))
            assert self.pool.num_found(holder.block_hashes, len(holder.block_hashes)) >= holder.num_written

    @rule(holder=consumes(holders))
    def leave(self, holder: Holder) -> None:
        if holder in self.inside:
            self.inside.remove(holder)
            self.pool.release(holder.blocks)

    @rule()
    def clear(self) -> None:
        held = any(holder.num_written for holder in self.inside)
        assert self.pool.clear() == (not held)

    @invariant()
    def every_block_is_accounted_for(self) -> None:
        self.pool.check([holder.blocks for holder in self.inside])

    @invariant()
    def the_events_say_what_is_there(self) -> None:
        assert self.sink.block_hashes == self.pool.block_hashes


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)

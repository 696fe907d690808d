"""The block pool of the prefix cache: what is found, what goes first, and what the events add up to."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from tests.mocker.sink import NaiveSink

from dynamo.transformers._block_pool import BlockChain, BlockPool

BLOCK_SIZE = 2


def chain(token_ids: list[int]) -> BlockChain:
    made = BlockChain()
    made.extend(token_ids, BLOCK_SIZE)
    return made


def keep(pool: BlockPool, token_ids: list[int]) -> tuple[int, list[int]]:
    return pool.keep(chain(token_ids), len(token_ids) // BLOCK_SIZE, token_ids)


def found(pool: BlockPool, token_ids: list[int]) -> int:
    return pool.num_found(chain(token_ids), len(token_ids) // BLOCK_SIZE)


def test_the_hashes_of_a_sequence_that_grows_are_those_of_the_whole() -> None:
    growing = BlockChain()
    for end in range(10):
        growing.extend(list(range(end)), BLOCK_SIZE)
    assert growing.block_hashes == chain(list(range(9))).block_hashes
    assert growing.tokens_hashes == chain(list(range(9))).tokens_hashes


def test_what_is_kept_is_found_as_far_as_the_tokens_agree() -> None:
    pool = BlockPool(8, BLOCK_SIZE)
    keep(pool, [1, 2, 3, 4, 5, 6])
    assert [found(pool, tokens) for tokens in ([1, 2, 3, 4, 9, 9], [1, 2, 9, 4, 5, 6], [9, 2, 3, 4, 5, 6])] == [2, 1, 0]


def test_only_what_is_new_gets_places() -> None:
    pool = BlockPool(8, BLOCK_SIZE)
    assert keep(pool, [1, 2, 3, 4]) == (0, [0, 1])
    assert keep(pool, [1, 2, 3, 4, 5, 6]) == (2, [2])
    assert keep(pool, [1, 2, 3, 4]) == (2, [])
    assert pool.use(chain([1, 2, 3, 4, 5, 6]), 3) == [0, 1, 2]


def test_the_end_of_what_was_used_longest_ago_goes_first() -> None:
    pool = BlockPool(4, BLOCK_SIZE)
    keep(pool, [1, 2, 3, 4])
    keep(pool, [5, 6, 7, 8])
    pool.use(chain([1, 2, 3, 4]), 2)
    keep(pool, [9, 9])
    assert [found(pool, tokens) for tokens in ([1, 2, 3, 4], [5, 6, 7, 8], [9, 9])] == [2, 1, 1]


def test_a_sequence_longer_than_the_pool_is_kept_from_its_beginning_on() -> None:
    sink = NaiveSink(BLOCK_SIZE)
    pool = BlockPool(3, BLOCK_SIZE, sink)
    keep(pool, [1, 1, 2, 2])
    keep(pool, [3, 3, 4, 4, 5, 5, 6, 6, 7, 7])
    assert found(pool, [3, 3, 4, 4, 5, 5, 6, 6]) == 3
    assert sink.block_hashes == pool.block_hashes


def test_a_pool_without_places_keeps_nothing() -> None:
    sink = NaiveSink(BLOCK_SIZE)
    pool = BlockPool(0, BLOCK_SIZE, sink)
    assert keep(pool, [1, 2, 3, 4]) == (0, [])
    assert (pool.num_kept, sink.events) == (0, [])


class PoolMachine(RuleBasedStateMachine):
    """Whatever is kept and used: places hold what they are said to hold, and the events say what is there."""

    def __init__(self) -> None:
        super().__init__()
        self.sink = NaiveSink(BLOCK_SIZE)
        self.pool = BlockPool(5, BLOCK_SIZE, self.sink)
        # What a caller has written to each place: all tokens up to the end of the block.
        self.written: dict[int, tuple[int, ...]] = {}

    @rule(token_ids=st.lists(st.integers(0, 1), max_size=14))
    def keep(self, token_ids: list[int]) -> None:
        first, places = keep(self.pool, token_ids)
        for index, place in enumerate(places, first):
            self.written[place] = tuple(token_ids[: (index + 1) * BLOCK_SIZE])
        assert found(self.pool, token_ids) == min(len(token_ids) // BLOCK_SIZE, self.pool.num_blocks)

    @rule(token_ids=st.lists(st.integers(0, 1), max_size=14))
    def use(self, token_ids: list[int]) -> None:
        count = found(self.pool, token_ids)
        expected = [tuple(token_ids[: (index + 1) * BLOCK_SIZE]) for index in range(count)]
        assert [self.written[place] for place in self.pool.use(chain(token_ids), count)] == expected

    @invariant()
    def the_events_say_what_is_there(self) -> None:
        assert self.sink.block_hashes == self.pool.block_hashes
        assert self.pool.num_kept <= self.pool.num_blocks


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)

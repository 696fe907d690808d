"""The blocks of one worker: what an index knows after all their events, it knows after a dump."""

from __future__ import annotations

import random
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.llm.kv.cache import RandomCache

from dynamo._core.prefix_index import Applied, PrefixIndex, WorkerKey
from dynamo.llm._kv_blocks import KvBlocks
from dynamo.llm._kv_events import (
    Cleared,
    KvEvent,
    Removed,
    Stored,
    apply_event,
    hashes_to_bytes,
    stored_events,
    to_u64s,
)

WORKER = WorkerKey(7)

names = st.integers(0, 5)
stored = st.tuples(st.none() | names, st.lists(st.tuples(names, st.integers(0, 2)), min_size=1, max_size=4))
changes = st.lists(stored | st.lists(names, min_size=1, max_size=3) | st.none(), max_size=30)


class Both:
    """A sink that keeps blocks, and an index beside them that hears the same."""

    def __init__(self) -> None:
        self.blocks = KvBlocks()
        self.index = PrefixIndex()

    def stored(
        self,
        parent_hash: int | None,
        block_hashes: Sequence[int],
        tokens_hashes: Sequence[int] | None = None,
        *,
        token_ids: Sequence[int] | None = None,
    ) -> None:
        for event in stored_events(parent_hash, to_u64s(block_hashes), to_u64s(tokens_hashes or [])):
            self.take(event)

    def removed(self, block_hashes: Sequence[int]) -> None:
        self.take(Removed(hashes_to_bytes(to_u64s(block_hashes))))

    def cleared(self) -> None:
        self.take(Cleared())

    def take(self, event: KvEvent) -> None:
        applied = self.blocks.apply(event)
        expected = apply_event(self.index, WORKER, event)
        assert isinstance(event, Cleared) or applied == expected


def dumped(blocks: KvBlocks) -> PrefixIndex:
    index = PrefixIndex()
    for event in blocks.events():
        applied = apply_event(index, WORKER, event)
        assert isinstance(event, Stored | Removed)
        assert applied == Applied(len(event.block_hashes) // 8)
    return index


@given(seed=st.integers(0, 1 << 32))
@settings(deadline=None)
def test_whatever_an_engine_does_a_dump_says_what_its_events_have_said(seed: int) -> None:
    both = Both()
    cache = RandomCache(both, random.Random(seed))
    for _ in range(80):
        cache.step()
    heard = dumped(both.blocks)
    for _ in range(80):
        for prompt in cache.prompts:
            assert heard.find(prompt) == both.index.find(prompt)
            assert heard.find(prompt).get(WORKER, 0) == cache.held(prompt)
        # Those who have the dump go on with events, and stay right.
        both.index = heard
        cache.step()
        heard = both.index


@given(changes=changes)
@settings(deadline=None, max_examples=300)
def test_it_takes_and_leaves_what_an_index_does_however_odd(
    changes: list[tuple[int | None, list[tuple[int, int]]] | list[int] | None],
) -> None:
    both = Both()
    for change in changes:
        if change is None:
            both.cleared()
        elif isinstance(change, list):
            both.removed(change)
        else:
            parent, pairs = change
            both.stored(parent, [name for name, _ in pairs], [token for _, token in pairs])
    again = dumped(both.blocks)
    for first in range(3):
        for second in range(3):
            prompt = [first, second, first]
            assert again.find(prompt) == both.index.find(prompt)


def test_blocks_are_no_more_than_the_limit() -> None:
    blocks = KvBlocks(blocks_max=4)
    (event,) = stored_events(None, to_u64s(range(10, 16)), to_u64s(range(6)))
    assert blocks.apply(event) == Applied(4, full=2)
    assert len(blocks) == 4


def test_parts_of_a_hash_and_lists_that_do_not_match_are_malformed() -> None:
    blocks = KvBlocks()
    assert blocks.apply(Stored(None, b"1234567", b"1234567")) == Applied(0, malformed=1)
    assert blocks.apply(Stored(None, bytes(16), bytes(8))) == Applied(0, malformed=2)
    assert blocks.apply(Removed(b"123456789")) == Applied(0, malformed=2)


def test_a_prompt_is_dumped_as_one_event_however_it_was_stored() -> None:
    blocks = KvBlocks()
    parent = None
    for name in range(100, 200):
        for event in stored_events(parent, to_u64s([name]), to_u64s([name + 1])):
            blocks.apply(event)
        parent = name
    assert len(list(blocks.events())) == 1


def test_what_has_gone_is_forgotten_with_the_last_that_continues_it() -> None:
    both = Both()
    both.stored(None, range(1, 6), range(11, 16))
    both.removed([1, 2])
    assert len(list(both.blocks.events())) == 2
    both.removed([3, 4, 5])
    assert list(both.blocks.events()) == []

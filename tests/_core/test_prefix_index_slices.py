"""No step of the prefix index takes long: what many workers hold under names of their own is in short runs, and what
takes long in all goes in slices. Steps are counted here in blocks, names or lines of code that ran, as times depend on
the machine."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable

import pytest
from tests._core.prefix_model import store
from tests.count_lines import lines_of

from dynamo._core._prefix_names import U64s
from dynamo._core.prefix_index import Applied, PrefixIndex, WorkerKey

WORKERS = [WorkerKey(number) for number in range(64)]
BLOCKS = 512
#: Two milliseconds, more or less.
LINES_PER_SLICE = 20_000


def hashes(chance: random.Random, count: int) -> U64s:
    return array("Q", chance.randbytes(8 * count))


def salted(chance: random.Random) -> tuple[PrefixIndex, U64s, dict[WorkerKey, U64s]]:
    """Return an index of one prompt that every worker holds under names of its own; its tokens, and the names."""
    index, tokens = PrefixIndex(), hashes(chance, BLOCKS)
    names = {worker: hashes(chance, BLOCKS) for worker in WORKERS}
    for worker in WORKERS:
        assert index.store(worker, None, names[worker], tokens) == Applied(BLOCKS)
    return index, tokens, names


def test_a_run_that_many_workers_name_differently_is_cut_into_short_ones() -> None:
    index, tokens, names = salted(random.Random(1))
    assert index.num_runs >= 8
    assert index.find(tokens) == dict.fromkeys(WORKERS, BLOCKS)
    for worker in WORKERS:
        assert index.remove(worker, names[worker]) == Applied(BLOCKS)
    assert index.num_names == index.num_runs == 0


def test_a_run_that_all_workers_name_alike_stays_a_long_one() -> None:
    chance, index = random.Random(1), PrefixIndex()
    names, tokens = hashes(chance, BLOCKS), hashes(chance, BLOCKS)
    for worker in WORKERS:
        index.store(worker, None, names, tokens)
    assert index.num_runs == 1


def test_where_many_names_were_cut_they_are_not_put_together_only_to_be_cut_again() -> None:
    chance = random.Random(1)
    index, tokens, names = salted(chance)
    at = BLOCKS // 16 * 3 + 5
    num_runs = []
    for _ in range(3):
        fork = hashes(chance, 1)
        assert index.store(WORKERS[0], names[WORKERS[0]][at], fork, hashes(chance, 1)) == Applied(1)
        num_runs.append(index.num_runs)
        assert index.remove(WORKERS[0], fork) == Applied(1)
        num_runs.append(index.num_runs + 1)
    assert len(set(num_runs)) == 1
    assert index.find(tokens) == dict.fromkeys(WORKERS, BLOCKS)


def test_many_workers_that_go_at_once_are_forgotten_in_slices() -> None:
    index, _, _ = salted(random.Random(1))
    for worker in WORKERS:
        index.remove_worker(worker)
    is_done = False
    while not is_done:
        before = index.num_names
        is_done = index.reclaim(budget_blocks=100)
        assert before - index.num_names <= 100 + 2 * BLOCKS
    assert index.num_names == index.num_runs == 0


def test_forgetting_some_of_many_workers_leaves_the_others_what_they_hold() -> None:
    index, tokens, names = salted(random.Random(1))
    for worker in WORKERS[::2]:
        index.remove_worker(worker)
    while not index.reclaim(budget_blocks=1):
        assert index.find(tokens) == dict.fromkeys(WORKERS[1::2], BLOCKS)
    assert index.find(tokens) == dict.fromkeys(WORKERS[1::2], BLOCKS)
    for worker in WORKERS[1::2]:
        assert index.remove(worker, names[worker]) == Applied(BLOCKS)
    assert index.num_names == index.num_runs == 0


def test_removing_never_needs_more_names_than_the_limit() -> None:
    """A block that loses its first name and keeps a second one has its worker name all blocks before it itself."""
    index = PrefixIndex(blocks_max=60)
    names, second = range(1, 51), 99
    for worker in WORKERS[:3]:
        assert index.store(worker, None, names, names) == Applied(50)
        assert index.store(worker, 49, [second], [50]) == Applied(1)
    for worker in WORKERS[:3]:
        index.remove(worker, [50])
        assert index.num_names <= 60
    assert all(depth <= 50 for depth in index.find(names).values())


def test_a_dump_goes_on_while_the_index_changes() -> None:
    chance, index = random.Random(1), PrefixIndex()
    stays, goes, comes = WORKERS[:3]
    tokens = hashes(chance, BLOCKS)
    for worker in (stays, goes):
        index.store(worker, None, hashes(chance, BLOCKS), tokens)
        index.store(worker, None, hashes(chance, BLOCKS), hashes(chance, BLOCKS))
    dump = index.dump()
    heard = [next(dump)]
    index.remove_worker(goes)
    while not index.reclaim():
        pass
    index.store(comes, None, hashes(chance, 9), hashes(chance, 9))
    index.clear(stays)
    heard += dump
    assert {event.worker for event in heard} == {stays}
    again = PrefixIndex()
    assert sum(store(again, event).applied for event in heard) == 2 * BLOCKS
    assert again.find(tokens) == {stays: BLOCKS}


def one_by_one(chance: random.Random) -> tuple[PrefixIndex, list[WorkerKey]]:
    """One worker stores its blocks one at a time, as in a decode."""
    index = PrefixIndex()
    for _ in range(10):
        parent = None
        for name in hashes(chance, 2 * BLOCKS):
            index.store(WORKERS[0], parent, [name], [name])
            parent = name
    return index, WORKERS[:1]


def branching(chance: random.Random, num_salted: int = 0) -> tuple[PrefixIndex, list[WorkerKey]]:
    """A worker goes on by itself in the middle of what others hold: without it, two pieces become one."""
    index = PrefixIndex()
    for _ in range(150):
        tokens, names = hashes(chance, BLOCKS), hashes(chance, BLOCKS)
        index.store(WORKERS[1], None, names, tokens)
        for worker in WORKERS[2 : 2 + num_salted]:
            index.store(worker, None, hashes(chance, BLOCKS), tokens)
        index.store(WORKERS[0], None, names[: BLOCKS // 2], tokens[: BLOCKS // 2])
        index.store(WORKERS[0], names[BLOCKS // 2 - 1], hashes(chance, 1), hashes(chance, 1))
    return index, WORKERS[:1]


def branching_where_names_differ(chance: random.Random) -> tuple[PrefixIndex, list[WorkerKey]]:
    """The same, and those others have names of their own."""
    return branching(chance, num_salted=3)


def all_but_one(chance: random.Random) -> tuple[PrefixIndex, list[WorkerKey]]:
    """Of many workers that hold the same, only one stays."""
    index = PrefixIndex()
    for _ in range(300):
        tokens, names = hashes(chance, 10), hashes(chance, 10)
        for worker in WORKERS:
            index.store(worker, None, names, tokens)
    return index, WORKERS[1:]


def each_a_bit_less(chance: random.Random) -> tuple[PrefixIndex, list[WorkerKey]]:
    """Each of very many workers holds another part of the same runs, and one of them goes."""
    index = PrefixIndex()
    workers = [WorkerKey(number) for number in range(400)]
    for _ in range(60):
        tokens, names = hashes(chance, BLOCKS), hashes(chance, BLOCKS)
        for depth, worker in zip(range(BLOCKS, 0, -1), workers, strict=False):
            index.store(worker, None, names[:depth], tokens[:depth])
    return index, workers[:1]


@pytest.mark.parametrize("filled", [one_by_one, branching, branching_where_names_differ, all_but_one, each_a_bit_less])
def test_no_slice_of_forgetting_workers_does_much(
    filled: Callable[[random.Random], tuple[PrefixIndex, list[WorkerKey]]],
) -> None:
    index, gone = filled(random.Random(1))
    for worker in gone:
        index.remove_worker(worker)
    is_done, longest = False, 0
    while not is_done:
        is_done, lines = lines_of(index.reclaim)
        longest = max(longest, lines)
    assert longest < LINES_PER_SLICE


def test_sets_of_many_workers_are_forgotten_before_that_takes_long() -> None:
    """They are remembered for those who ask, and hold as many keys as workers: freeing a million takes a while."""
    index, tokens = PrefixIndex(), range(600)
    for number in range(600):
        index.store(WorkerKey(number), None, tokens[: number + 1], tokens[: number + 1])
    for depth in range(1, 601):
        index.find([*tokens[:depth], 1000])
    assert sum(map(len, index._workers._sets.values())) <= 1 << 17

"""What workers should have cached, by what they were sent."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo._core.prefix_index import WorkerKey
from dynamo.llm._kv_router.approx import SLICE_BLOCKS, ApproxIndex

A, B = WorkerKey(1), WorkerKey(2)


def test_a_worker_holds_what_it_was_sent() -> None:
    index = ApproxIndex(ttl_s=10.0)
    index.note_sent(A, [1, 2, 3], 0.0)
    assert index.find([1, 2, 9]) == {A: 2}


def test_what_was_sent_counts_no_longer_than_its_time() -> None:
    index = ApproxIndex(ttl_s=10.0)
    index.note_sent(A, [1, 2], 0.0)
    index.expire(9.9)
    assert index.find([1, 2]) == {A: 2}
    index.expire(10.0)
    assert index.find([1, 2]) == {}
    assert index.num_blocks == 0


def test_what_is_sent_again_counts_from_then() -> None:
    index = ApproxIndex(ttl_s=10.0)
    index.note_sent(A, [1, 2, 3], 0.0)
    index.note_sent(A, [1, 2, 4], 5.0)
    index.expire(10.0)
    assert index.find([1, 2, 3]) == {A: 2}
    assert index.find([1, 2, 4]) == {A: 3}


def test_a_worker_holds_no_more_than_it_has_room_for_and_loses_the_ends_of_the_oldest() -> None:
    index = ApproxIndex(ttl_s=None)
    index.note_sent(A, [1, 2, 3, 4], 0.0, room_blocks=6)
    index.note_sent(A, [11, 12, 13, 14], 1.0, room_blocks=6)
    assert index.find([1, 2, 3, 4]) == {A: 2}
    assert index.find([11, 12, 13, 14]) == {A: 4}


def test_what_was_used_lately_stays() -> None:
    index = ApproxIndex(ttl_s=None)
    index.note_sent(A, [1, 2], 0.0, room_blocks=4)
    index.note_sent(A, [11, 12], 1.0, room_blocks=4)
    index.note_sent(A, [1, 2], 2.0, room_blocks=4)
    index.note_sent(A, [21, 22], 3.0, room_blocks=4)
    assert index.find([1, 2]) == {A: 2}
    assert index.find([11, 12]) == {}


def test_all_workers_together_hold_no_more_than_the_limit() -> None:
    index = ApproxIndex(ttl_s=None, blocks_max=5)
    index.note_sent(A, [1, 2, 3], 0.0)
    index.note_sent(B, [11, 12, 13], 1.0)
    assert index.num_blocks == 5
    assert index.find([1, 2, 3]) == {A: 2}
    assert index.find([11, 12, 13]) == {B: 3}


@pytest.mark.parametrize("ttl_s", [None, 1000.0])
def test_the_limit_of_all_workers_costs_whatever_was_sent_the_longest_ago(ttl_s: float | None) -> None:
    index = ApproxIndex(ttl_s=ttl_s, blocks_max=8)
    index.note_sent(A, [1], 0.0)
    index.note_sent(B, [11, 12], 1.0)
    index.note_sent(B, [21, 22, 23], 2.0)
    index.note_sent(A, [2, 3, 4, 5, 6], 3.0)
    # The first of all is A's, and what comes next is B's: not the prompt that A was just sent.
    assert index.find([1]) == index.find([11, 12]) == {}
    assert index.find([2, 3, 4, 5, 6]) == {A: 5}
    assert index.find([21, 22, 23]) == {B: 3}


def test_the_limit_of_all_workers_takes_a_prompt_from_its_end_and_both_of_one_moment() -> None:
    index = ApproxIndex(ttl_s=None, blocks_max=4)
    index.note_sent(A, [1, 2, 3], 0.0)
    index.note_sent(B, [11, 12, 13, 14, 15, 16], 0.0)
    assert index.num_blocks == 4
    assert index.find([1]) == {}
    assert index.find([11, 12, 13, 14, 15, 16]) == {B: 4}


def test_a_worker_that_is_gone_holds_nothing() -> None:
    index = ApproxIndex(ttl_s=None)
    index.note_sent(A, [1, 2], 0.0)
    index.remove_worker(A)
    assert index.find([1, 2]) == {}
    assert index.num_blocks == 0


@pytest.mark.parametrize("ttl_s", [None, 120.0])
def test_what_is_remembered_is_as_much_as_the_blocks_however_often_they_are_sent(ttl_s: float | None) -> None:
    index = ApproxIndex(ttl_s=ttl_s)
    prompt = list(range(500))
    sizes = []
    for times in (2, 200):
        tracemalloc.start()
        for number in range(times):
            index.note_sent(A, [*prompt, number % 2], float(number))
        sizes.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
    assert index.num_blocks == 502
    assert sizes[1] < sizes[0]


def test_much_that_is_over_at_the_same_moment_is_forgotten_in_slices() -> None:
    index = ApproxIndex(ttl_s=10.0)
    for number in range(20):
        index.note_sent(A, [number, *range(500)], 0.0)
    left = [index.num_blocks]
    while not index.expire(10.0):
        left.append(index.num_blocks)
    assert left[0] == 20 * 501
    assert max(before - after for before, after in pairwise(left)) <= SLICE_BLOCKS
    assert index.num_blocks == 0
    assert index.find([0]) == {}


def test_a_worker_that_is_gone_is_found_no_more_at_once_and_forgotten_in_slices() -> None:
    index = ApproxIndex(ttl_s=None)
    for number in range(20):
        index.note_sent(A, [number, *range(500)], 0.0)
    index.remove_worker(A)
    assert (index.num_blocks, index.find([0])) == (0, {})
    num_slices = 1
    while not index.expire(0.0):
        num_slices += 1
    assert num_slices >= 20 * 501 / SLICE_BLOCKS


def test_a_worker_with_less_room_than_before_loses_what_is_too_much_in_slices() -> None:
    index = ApproxIndex(ttl_s=None)
    for number in range(20):
        index.note_sent(A, [number, *range(500)], 0.0)
    left = [index.num_blocks]
    while left[-1] > 10:
        index.note_sent(A, [1], 1.0, room_blocks=10)
        left.append(index.num_blocks)
    assert max(before - after for before, after in pairwise(left)) <= SLICE_BLOCKS


@dataclass
class Sent:
    worker: WorkerKey
    blocks: list[int]
    after_s: float


@given(
    st.lists(
        st.builds(
            Sent,
            st.sampled_from([A, B]),
            st.lists(st.integers(0, 2), min_size=1, max_size=5),
            st.floats(0, 4),
        ),
        max_size=30,
    ),
    st.lists(st.integers(0, 2), min_size=1, max_size=5),
)
def test_it_knows_what_was_sent_during_its_time_and_nothing_else(sent: list[Sent], query: list[int]) -> None:
    index, now = ApproxIndex(ttl_s=10.0), 0.0
    # When each was sent last.
    prefixes: dict[tuple[WorkerKey, tuple[int, ...]], float] = {}
    for one in sent:
        now += one.after_s
        index.expire(now)
        index.note_sent(one.worker, one.blocks, now)
        prefixes |= {(one.worker, tuple(one.blocks[:end])): now for end in range(1, len(one.blocks) + 1)}
    index.expire(now)

    expected = {}
    for worker in (A, B):
        held = [
            end for end in range(1, len(query) + 1) if prefixes.get((worker, tuple(query[:end])), -11.0) > now - 10.0
        ]
        if held:
            expected[worker] = max(held)
    assert index.find(query) == expected
    assert index.num_blocks == sum(sent_s > now - 10.0 for sent_s in prefixes.values())

"""What workers should have cached, by what they were sent."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from dynamo._core.prefix_index import WorkerKey
from dynamo.llm._kv_router.approx import ApproxIndex

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


def test_a_worker_that_is_gone_holds_nothing() -> None:
    index = ApproxIndex(ttl_s=None)
    index.note_sent(A, [1, 2], 0.0)
    index.remove_worker(A)
    assert index.find([1, 2]) == {}
    assert index.num_blocks == 0


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
    prefixes: dict[tuple[WorkerKey, tuple[int, ...]], float] = {}
    for one in sent:
        now += one.after_s
        index.expire(now)
        index.note_sent(one.worker, one.blocks, now)
        prefixes |= {(one.worker, tuple(one.blocks[:end])): now + 10.0 for end in range(1, len(one.blocks) + 1)}
    index.expire(now)

    expected = {}
    for worker in (A, B):
        held = [end for end in range(1, len(query) + 1) if prefixes.get((worker, tuple(query[:end])), -1.0) > now]
        if held:
            expected[worker] = max(held)
    assert index.find(query) == expected
    assert index.num_blocks == sum(until > now for until in prefixes.values())

"""What is counted for workers: prompts to compute, and blocks held."""

from __future__ import annotations

import random
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st
from tests.llm.kv_router.prompts import BLOCK_SIZE, book, prompt
from tests.llm.kv_router.worker_model import FixedWorkers, asked

from dynamo._core.prefix_index import WorkerKey
from dynamo.llm._kv_router.fleet import GONE_S, Fleet
from dynamo.llm._kv_router.load import Booking, Load, PotentialLoad, Tracking, WorkerFacts
from dynamo.llm._kv_router.prompt import DEPTHS, Prompt


def one_worker() -> tuple[Fleet, Load]:
    fleet = Fleet(FixedWorkers([1]))
    return fleet, fleet.loads([1])[0]


def counted(load: Load) -> tuple[int, int, int]:
    return load.num_requests, load.prefill_tokens, load.decode_blocks


def test_a_request_counts_from_when_it_is_booked_until_it_is_freed() -> None:
    fleet, load = one_worker()

    booking = book(fleet, load, prompt(10), overlap_blocks=1)
    assert counted(load) == (1, 6, 3)
    booking.complete_prefill()
    assert counted(load) == (1, 0, 3)
    booking.free()
    assert counted(load) == (0, 0, 0)


def test_what_happens_twice_counts_once() -> None:
    fleet, load = one_worker()
    book(fleet, load, prompt(10, first=100))
    booking = book(fleet, load, prompt(10))

    for _ in range(2):
        booking.complete_prefill()
    for _ in range(2):
        booking.free()
    booking.complete_prefill()

    assert counted(load) == (1, 10, 3)


def test_a_request_that_is_freed_while_its_prompt_is_computed_leaves_nothing() -> None:
    fleet, load = one_worker()
    book(fleet, load, prompt(10)).free()
    assert counted(load) == (0, 0, 0)


def test_generated_tokens_count_by_the_block_where_that_is_asked_for() -> None:
    fleet, load = one_worker()
    booking = book(fleet, load, prompt(7), tracking=Tracking(output_blocks=True))

    sizes = []
    for _ in range(6):
        booking.grow(1)
        sizes.append(load.decode_blocks)

    assert sizes == [2, 3, 3, 3, 3, 4]
    booking.free()
    assert counted(load) == (0, 0, 0)


def test_nothing_counts_that_is_not_to_be_tracked() -> None:
    fleet, load = one_worker()
    booking = book(fleet, load, prompt(10), tracking=Tracking(prefill_tokens=False, active_blocks=False))
    assert counted(load) == (1, 0, 0)
    booking.free()
    assert counted(load) == (0, 0, 0)


def test_without_reuse_each_request_holds_its_own_blocks() -> None:
    fleet, load = one_worker()
    for _ in range(3):
        book(fleet, load, prompt(10), tracking=Tracking(kv_reuse=False))
    assert load.decode_blocks == 9


def test_requests_of_other_workers_share_nothing() -> None:
    fleet = Fleet(FixedWorkers([1, 2]))
    loads = fleet.loads([1, 2])
    for load in loads:
        book(fleet, load, prompt(8))
    assert [load.decode_blocks for load in loads] == [2, 2]


def test_a_prompt_that_is_not_told_counts_as_a_request_only() -> None:
    fleet, load = one_worker()
    book(fleet, load, Prompt.of(asked([]), BLOCK_SIZE))
    assert counted(load) == (1, 0, 0)


def test_a_request_of_two_hours_still_counts() -> None:
    fleet, load = one_worker()
    book(fleet, load, prompt(10))
    for minute in range(120):
        fleet.refresh(60.0 * minute)
    assert counted(fleet.loads([1])[0]) == (1, 10, 3)


def test_what_a_worker_had_is_freed_when_it_has_been_gone_for_long() -> None:
    workers = FixedWorkers([1, 2])
    fleet = Fleet(workers)
    booking = book(fleet, fleet.loads([1])[0], prompt(10))
    workers.ids = [2]

    assert fleet.refresh(0.0) == []
    assert booking.is_open
    assert fleet.refresh(GONE_S) == [WorkerKey(1)]
    assert not booking.is_open
    assert len(fleet.active) == 0


def test_a_worker_that_is_back_in_a_moment_still_has_its_requests() -> None:
    workers = FixedWorkers([1])
    fleet = Fleet(workers)
    book(fleet, fleet.loads([1])[0], prompt(10))
    workers.ids = []
    fleet.refresh(0.0)
    workers.ids = [1]
    fleet.refresh(GONE_S - 1)
    fleet.refresh(2 * GONE_S)
    assert counted(fleet.loads([1])[0]) == (1, 10, 3)


def test_each_rank_of_a_worker_has_a_load_of_its_own() -> None:
    fleet = Fleet(FixedWorkers([1, 2], {2: {"data_parallel_size": 2}}))
    assert [load.key for load in fleet.loads([1, 2])] == [WorkerKey(1), WorkerKey(2, 0), WorkerKey(2, 1)]


def test_a_card_that_comes_later_than_its_worker_is_seen() -> None:
    workers = FixedWorkers([1])
    fleet = Fleet(workers)
    book(fleet, fleet.loads([1])[0], prompt(10))

    workers.configs[1] = {"data_parallel_size": 2, "total_kv_blocks": 100, "taints": ["fast"]}
    fleet.refresh(0.0)

    first, second = fleet.loads([1])
    assert (first.num_requests, second.key) == (1, WorkerKey(1, 1))
    assert (first.facts.total_kv_blocks, first.facts.taints) == (100, frozenset({"fast"}))


def test_what_makes_no_sense_in_a_card_counts_as_not_said() -> None:
    config = {"data_parallel_size": "many", "total_kv_blocks": -1, "max_num_batched_tokens": True, "taints": "fast"}
    assert WorkerFacts.read(config) == WorkerFacts()


def test_potential_loads_are_those_with_one_more_request() -> None:
    fleet = Fleet(FixedWorkers([1, 2]))
    loads = fleet.loads([1, 2])
    book(fleet, loads[0], prompt(16))

    assert fleet.potential(prompt(18), loads, [2, 0]) == [
        PotentialLoad(1, 0, 16 + 18 - 8, 5, 1),
        PotentialLoad(2, 0, 18, 5, 0),
    ]


class Naive:
    """The same, the plain way: the set of all prefixes that are held, and the rest of each request."""

    def __init__(self) -> None:
        self.requests: list[tuple[int, list[int], int]] = []

    def decode_blocks(self, worker: int) -> int:
        prefixes = {
            tuple(tokens[: end * BLOCK_SIZE])
            for at, tokens, _ in self.requests
            if at == worker
            for end in range(1, len(tokens) // BLOCK_SIZE + 1)
        }
        partial = sum(
            -(-(len(tokens) + out) // BLOCK_SIZE) - len(tokens) // BLOCK_SIZE
            for at, tokens, out in self.requests
            if at == worker
        )
        return len(prefixes) + partial


@dataclass
class Step:
    worker: int
    tokens: list[int]
    num_output_tokens: int
    frees: int


STEPS = st.lists(
    st.builds(
        Step,
        st.integers(0, 1),
        st.lists(st.integers(0, 1), max_size=16).map(lambda ids: [one for one in ids for _ in range(BLOCK_SIZE)]),
        st.integers(0, 9),
        st.integers(0, 3),
    ),
    max_size=20,
)


@given(STEPS)
def test_blocks_that_requests_of_a_worker_share_count_once(steps: list[Step]) -> None:
    fleet, naive = Fleet(FixedWorkers([0, 1])), Naive()
    loads = fleet.loads([0, 1])
    bookings: list[Booking] = []
    for step in steps:
        of = Prompt.of(asked(step.tokens[:-1]), BLOCK_SIZE)
        booking = book(fleet, loads[step.worker], of, tracking=Tracking(output_blocks=True))
        booking.grow(step.num_output_tokens)
        bookings.append(booking)
        naive.requests.append((step.worker, step.tokens[:-1], step.num_output_tokens))
        for _ in range(min(step.frees, len(bookings) - 1)):
            bookings.pop(0).free()
            naive.requests.pop(0)
        assert [load.decode_blocks for load in loads] == [naive.decode_blocks(worker) for worker in (0, 1)]

    for booking in bookings:
        booking.free()
    assert [counted(load) for load in loads] == [(0, 0, 0)] * 2
    assert len(fleet.active) == 0


@given(st.integers(0, 900), st.integers(0, 900), st.integers(0, 900))
def test_what_long_prompts_share_is_known_to_a_fifth(shared: int, rest: int, other_rest: int) -> None:
    fleet, load = one_worker()
    common = list(range(shared * BLOCK_SIZE))
    book(fleet, load, Prompt.of(asked([*common, *range(10_000, 10_000 + rest * BLOCK_SIZE)]), BLOCK_SIZE))

    of = Prompt.of(asked([*common, *range(20_000, 20_000 + other_rest * BLOCK_SIZE)]), BLOCK_SIZE)
    known = fleet.active.shared(of).get(load, 0)

    assert 0.8 * shared <= known <= shared


def test_checkpoints_go_on_without_end_as_far_as_prompts_do() -> None:
    assert DEPTHS[-1] > 100_000
    assert list(DEPTHS) == sorted(set(DEPTHS))


@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=15), max_size=8), st.randoms(use_true_random=False))
def test_checkpoints_that_are_no_chain_leave_nothing_behind_either(heard: list[list[int]], rng: random.Random) -> None:
    fleet, load = one_worker()
    bookings = [
        fleet.book(load, Prompt.heard(100 * BLOCK_SIZE, BLOCK_SIZE, checkpoints), 0, Tracking())
        for checkpoints in heard
    ]
    rng.shuffle(bookings)
    for booking in bookings:
        booking.free()
    assert load.decode_blocks == load.num_requests == len(load.held) == len(fleet.active) == 0

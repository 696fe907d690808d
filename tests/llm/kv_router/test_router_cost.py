"""What a worker costs, and which one is taken."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.llm.kv_router.prompts import BLOCK_SIZE, book, prompt
from tests.llm.kv_router.worker_model import FixedWorkers

from dynamo.llm._kv_router.cost import Weights, pick, preference, weigh
from dynamo.llm._kv_router.fleet import Fleet
from dynamo.llm._kv_router.load import Tracking
from dynamo.llm._routing import RoutingConstraints

#: The defaults of Dynamo 1.6.
AS_1_6 = Weights(overlap_credit=1.0, credit_decay=0.0, prefill_scale=1.0, request_weight=0.0, shares_credit=False)


def fleet_of(*requests: int) -> Fleet:
    """Workers 0, 1, ... each with one request of so many tokens that is being computed."""
    fleet = Fleet(FixedWorkers(range(len(requests))))
    for load, num_tokens in zip(fleet.loads(list(range(len(requests)))), requests, strict=True):
        if num_tokens:
            book(fleet, load, prompt(num_tokens, first=1000))
    return fleet


def costs(fleet: Fleet, num: int, overlaps: list[int], weights: Weights) -> list[float]:
    return weigh(prompt(num), fleet.loads(list(range(len(overlaps)))), overlaps, {}, weights).costs


def test_the_cost_is_what_is_to_be_computed_and_what_is_to_be_held() -> None:
    # 16 tokens to compute and 4 blocks held already, and 40 tokens of which 3 blocks are cached.
    assert costs(fleet_of(16), 40, [3], AS_1_6) == [(16 + 40) / BLOCK_SIZE - 3 + (4 + 10)]


def test_a_scale_of_prefill_weighs_what_is_to_be_computed() -> None:
    assert costs(fleet_of(16), 40, [3], replace(AS_1_6, prefill_scale=2.0)) == [2 * 11.0 + 14]


def test_without_credit_caches_do_not_count() -> None:
    assert costs(fleet_of(0, 0), 40, [3, 0], replace(AS_1_6, overlap_credit=0.0)) == [20.0, 20.0]
    assert costs(fleet_of(0, 0), 40, [3, 0], replace(AS_1_6, overlap_credit=0.0, shares_credit=True)) == [20.0, 20.0]


def test_what_is_to_be_computed_is_never_less_than_nothing() -> None:
    assert costs(fleet_of(0), 8, [2], replace(AS_1_6, overlap_credit=5.0)) == [2.0]


@pytest.mark.parametrize(
    ("overlaps", "to_compute"),
    [
        ([6, 0], [10 - 6, 10 - 6 + 3 * 6]),
        ([6, 6], [4, 4]),
        ([6, 6, 0], [4, 4, 4 + 3 * 6 / 2]),
        ([6, 2, 0], [4, 4 + 3 * 4, 4 + 3 * 4 + 3 * 2 / 2]),
        ([0, 0], [10, 10]),
    ],
)
def test_what_others_have_counts_by_the_credit_which_they_share(overlaps: list[int], to_compute: list[float]) -> None:
    sharing = replace(AS_1_6, overlap_credit=3.0, shares_credit=True)
    assert costs(fleet_of(*[16] * len(overlaps)), 40, overlaps, sharing) == [4 + one + 4 + 10 for one in to_compute]


@given(st.integers(0, 400), st.integers(1, 400), st.integers(0, 100), st.floats(0, 10))
def test_where_nothing_is_shared_the_cost_is_that_of_1_6(active: int, size: int, cached: int, credit: float) -> None:
    overlap = min(cached, size // BLOCK_SIZE)
    [found] = costs(fleet_of(active), size, [overlap], replace(AS_1_6, overlap_credit=credit))
    raw = (active + size) / BLOCK_SIZE
    assert found == max(raw - credit * overlap, 0) + -(-active // BLOCK_SIZE) + -(-size // BLOCK_SIZE)


@given(
    st.integers(1, 400),
    st.lists(st.integers(0, 100), min_size=1, max_size=8),
    st.floats(0, 10),
    st.floats(0, 10),
    st.booleans(),
)
def test_of_idle_workers_those_with_more_of_the_prompt_are_never_dearer(
    size: int, cached: list[int], credit: float, decay: float, shares: bool
) -> None:
    overlaps = sorted(min(one, size // BLOCK_SIZE) for one in cached)
    weights = replace(AS_1_6, overlap_credit=credit, credit_decay=decay, shares_credit=shares)
    found = costs(fleet_of(*[0] * len(overlaps)), size, overlaps, weights)
    assert found == sorted(found, reverse=True)
    assert found[-1] >= 0


def test_credit_decays_where_a_worker_has_more_to_compute_than_the_least_busy_one() -> None:
    # The second one has 40 tokens more, as many as the request: with a decay of 1 its credit is halved.
    found = costs(fleet_of(0, 40), 40, [4, 4], replace(AS_1_6, credit_decay=1.0))
    assert found == [10.0 - 4 + 10, 20.0 - 2 + 20]


def test_each_request_of_a_worker_costs_what_it_is_set_to() -> None:
    assert costs(fleet_of(16, 0), 8, [0, 0], replace(AS_1_6, request_weight=100.0)) == [100 + 6.0 + 6, 2.0 + 2]


def test_where_prompts_are_not_tracked_what_is_cached_need_not_be_held_again() -> None:
    assert costs(fleet_of(16), 8, [2], replace(AS_1_6, tracks_prefill=False)) == [4 + 2 - 2]


def test_blocks_that_running_requests_share_with_the_prompt_are_held_already() -> None:
    fleet = Fleet(FixedWorkers([0, 1]))
    loads = fleet.loads([0, 1])
    book(fleet, loads[0], prompt(16), tracking=Tracking(prefill_tokens=False))
    of = prompt(20)

    terms = weigh(of, loads, [0, 0], fleet.active.shared(of), AS_1_6)

    assert terms.decode_blocks == [5, 5]


def test_preferred_taints_make_a_worker_cheaper_and_shunned_ones_dearer() -> None:
    fleet = Fleet(FixedWorkers([0, 1, 2], {0: {"taints": ["fast"]}, 1: {"taints": ["slow"]}}))
    constraints = RoutingConstraints(preferred_taints={"fast": 1.0, "slow": -1.0})
    loads = fleet.loads([0, 1, 2])

    factors = [preference(constraints, load) for load in loads]
    found = weigh(prompt(40), loads, [0, 0, 0], {}, AS_1_6, factors).costs

    assert factors == [math.exp(-math.tanh(1)), math.exp(math.tanh(1)), 1.0]
    assert found == [20.0 * factor for factor in factors]


def test_the_cheapest_is_taken() -> None:
    assert pick([3.0, 1.0, 2.0], [0, 9, 0], 0.0, random.Random(1)) == 1


def test_among_equals_the_one_with_the_fewest_requests_is_taken() -> None:
    assert {pick([1.0, 1.0, 1.0, 2.0], [3, 2, 3, 0], 0.0, random.Random(seed)) for seed in range(20)} == {1}


def test_among_those_that_are_equal_in_all_each_is_taken_as_often() -> None:
    rng = random.Random(1)
    taken = Counter(pick([1.0] * 4, [0] * 4, 0.0, rng) for _ in range(4000))
    assert min(taken.values()) > 900


def test_with_a_temperature_the_cheaper_is_the_likelier() -> None:
    rng = random.Random(1)
    taken = Counter(pick([1.0, 2.0, 3.0], [0] * 3, 0.5, rng) for _ in range(6000))
    # exp(0), exp(-1), exp(-2) of their sum
    assert taken[0] / 6000 == pytest.approx(0.665, abs=0.03)
    assert taken[1] / 6000 == pytest.approx(0.245, abs=0.03)


@given(
    st.lists(st.floats(0, 1e9), min_size=1, max_size=20),
    st.floats(0, 100),
    st.integers(0, 1000),
)
def test_some_worker_is_always_taken(costs: list[float], temperature: float, seed: int) -> None:
    assert 0 <= pick(costs, [0] * len(costs), temperature, random.Random(seed)) < len(costs)


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 5)), min_size=1, max_size=8), st.integers(1, 300))
def test_where_nothing_is_cached_the_cheapest_is_the_one_with_the_least_to_do(
    requests: list[tuple[int, int]], num_tokens: int
) -> None:
    fleet = Fleet(FixedWorkers(range(len(requests))))
    loads = fleet.loads(list(range(len(requests))))
    for number, (load, (size, count)) in enumerate(zip(loads, requests, strict=True)):
        for request in range(count):
            book(fleet, load, prompt(size, first=10_000 * (10 * number + request + 1)))

    terms = weigh(prompt(num_tokens), loads, [0] * len(loads), {}, AS_1_6)

    to_do = [load.prefill_tokens / BLOCK_SIZE + load.decode_blocks for load in loads]
    assert terms.costs.index(min(terms.costs)) == to_do.index(min(to_do))

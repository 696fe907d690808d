"""How many requests are sent a second time: a tenth, over any time, whatever happens."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dynamo.runtime._retry_budget import RATIO, RETRIES_MIN, SLOT_S, WINDOW_S, RetryBudget


def test_a_quiet_client_may_retry_too() -> None:
    budget = RetryBudget(0.0)
    assert [budget.take(0.0) for _ in range(RETRIES_MIN + 1)] == [True] * RETRIES_MIN + [False]


def test_a_busy_one_may_retry_a_tenth_of_its_requests() -> None:
    budget = RetryBudget(0.0)
    budget.requests += 1000
    assert budget.left(0.0) == 100
    assert sum(budget.take(0.0) for _ in range(1000)) == 100


def test_what_is_out_of_the_window_does_not_count() -> None:
    budget = RetryBudget(0.0)
    budget.requests += 1000
    while budget.take(0.0):
        pass
    budget.turn(SLOT_S)
    assert budget.left(WINDOW_S - SLOT_S) == 0
    assert budget.left(WINDOW_S + 2 * SLOT_S) == RETRIES_MIN


steps = st.lists(st.tuples(st.floats(0.0, 1.5), st.integers(0, 60), st.integers(0, 30)), max_size=60)


@given(steps)
def test_whoever_retries_retries_no_more_than_a_tenth_of_the_requests_of_late_or_the_minimum(
    steps: list[tuple[float, int, int]],
) -> None:
    budget, now = RetryBudget(0.0), 0.0
    sent: list[float] = []
    retried: list[float] = []
    for wait_s, requests, retries in steps:
        now += wait_s
        budget.turn(now)
        budget.requests += requests
        sent += [now] * requests
        for _ in range(retries):
            if budget.take(now):
                retried.append(now)
                # A slot is forgotten as a whole, so the window is exact to one slot.
                of_late = sum(at > now - WINDOW_S - 2 * SLOT_S for at in sent)
                assert sum(at > now - WINDOW_S for at in retried) <= max(RETRIES_MIN, RATIO * of_late)

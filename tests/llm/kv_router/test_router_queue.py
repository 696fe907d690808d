"""Requests that wait: in which order they go, and which may not wait at all."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo._core.errors import RouterQueueLimitExceeded
from dynamo.llm._kv_router.policy_class import PolicyClass, QueuePolicy
from dynamo.llm._kv_router.queue import RequestQueue, Waiting, order


def queue_of(policy: QueuePolicy = "fcfs", *classes: PolicyClass, size_max: int = 100) -> RequestQueue[str]:
    return RequestQueue(policy, classes, size_max=size_max)


def order_of(queue: RequestQueue[str]) -> list[str]:
    taken: list[str] = []

    def take(waiting: Waiting[str]) -> bool:
        taken.append(waiting.item)
        return True

    queue.dispatch(take)
    return taken


def filled(policy: QueuePolicy, *requests: Waiting[str]) -> list[str]:
    queue = queue_of(policy)
    for one in requests:
        queue.add(one, 1)
    return order_of(queue)


def test_who_came_first_goes_first() -> None:
    assert filled("fcfs", Waiting("a", 1.0), Waiting("c", 3.0), Waiting("b", 2.0)) == ["a", "b", "c"]


def test_or_who_came_last() -> None:
    assert filled("lcfs", Waiting("a", 1.0), Waiting("c", 3.0), Waiting("b", 2.0)) == ["c", "b", "a"]


def test_or_who_has_the_least_to_compute() -> None:
    requests = [Waiting("long", 1.0, num_new_tokens=900), Waiting("short", 2.0, num_new_tokens=9)]
    assert filled("wspt", *requests) == ["short", "long"]


@pytest.mark.parametrize("policy", ["fcfs", "lcfs", "wspt"])
def test_a_jump_brings_a_request_forward(policy: QueuePolicy) -> None:
    requests = [Waiting(name, 1.0, num_new_tokens=10) for name in "ab"]
    assert filled(policy, *requests, Waiting("jumps", 1.0, num_new_tokens=10, priority_jump=5.0))[0] == "jumps"


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.integers(0, 10_000)), min_size=2, max_size=6))
def test_by_what_is_to_be_computed_the_shorter_and_the_more_urgent_never_go_later(
    requests: list[tuple[float, int]],
) -> None:
    keys = [
        (jump, tokens, order("wspt", Waiting("", 0.0, num_new_tokens=tokens, priority_jump=jump)))
        for jump, tokens in requests
    ]
    for jump, tokens, key in keys:
        assert all(key <= other for less, more, other in keys if less <= jump and more >= tokens)


def test_a_higher_strict_priority_goes_before_everything_else() -> None:
    requests = [Waiting("first", 1.0, priority_jump=100.0), Waiting("strict", 9.0, strict_priority=1)]
    assert filled("fcfs", *requests) == ["strict", "first"]


def test_who_cannot_go_holds_up_those_with_the_same_workers_only() -> None:
    queue = queue_of()
    for name, workers in (("a", "x"), ("b", "x"), ("c", "y"), ("d", "z")):
        queue.add(Waiting(name, float(ord(name)), workers), 1)
    offered: list[str] = []

    def take(waiting: Waiting[str]) -> bool:
        offered.append(waiting.item)
        return waiting.workers_key == "y"

    assert queue.dispatch(take) == 1
    assert offered == ["a", "c", "d"]
    assert order_of(queue) == ["a", "b", "d"]


class CountedKey:
    """Which workers a request could go to, and how often somebody asked."""

    num_asked = 0

    def __init__(self, number: int) -> None:
        self.number = number

    def __hash__(self) -> int:
        CountedKey.num_asked += 1
        return hash(self.number)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CountedKey) and self.number == other.number


def test_to_find_that_nobody_can_go_costs_as_much_as_there_are_kinds_of_workers() -> None:
    costs = []
    for num in (50, 200):
        queue = queue_of(size_max=num)
        for number in range(num):
            queue.add(Waiting(str(number), float(number), CountedKey(number)), 1)
        before = CountedKey.num_asked
        assert queue.dispatch(lambda _: False) == 0
        costs.append(CountedKey.num_asked - before)
    assert costs[1] <= 4 * costs[0]


def test_who_waits_no_longer_is_not_offered() -> None:
    queue = queue_of()
    gone, stays = Waiting("gone", 1.0), Waiting("stays", 2.0)
    for one in (gone, stays):
        queue.add(one, 1)
    for _ in range(2):
        queue.remove(gone)
    assert len(queue) == 1
    assert order_of(queue) == ["stays"]


def test_no_more_wait_than_may() -> None:
    queue = queue_of(size_max=2)
    queue.add(Waiting("a", 1.0), 1)
    queue.add(Waiting("b", 1.0), 1)
    with pytest.raises(RouterQueueLimitExceeded, match="2 requests wait") as caught:
        queue.add(Waiting("c", 1.0), 1)
    error = caught.value
    assert (error.policy_class, error.limit_kind, error.current, error.limit) == ("default", "requests", 2, 2)


@pytest.mark.parametrize(
    ("policy_class", "kind", "limit"),
    [
        (PolicyClass("batch", waiting_requests_limit_per_worker=2), "requests", 6),
        (PolicyClass("batch", waiting_tokens_limit_per_worker=20), "tokens", 60),
    ],
)
def test_a_class_has_limits_for_each_worker_that_there_is(policy_class: PolicyClass, kind: str, limit: int) -> None:
    queue = queue_of("fcfs", policy_class)
    for number in range(6):
        queue.add(Waiting(str(number), 1.0, num_new_tokens=10, policy_class="batch"), 3)
    with pytest.raises(RouterQueueLimitExceeded) as caught:
        queue.add(Waiting("more", 1.0, num_new_tokens=10, policy_class="batch"), 3)
    assert (caught.value.policy_class, caught.value.limit_kind, caught.value.limit) == ("batch", kind, limit)
    queue.add(Waiting("of another class", 1.0), 3)


def test_classes_share_by_their_quanta() -> None:
    queue = queue_of("fcfs", PolicyClass("most", quantum=300), PolicyClass("some", quantum=100), size_max=1000)
    for number in range(200):
        for name in ("most", "some"):
            queue.add(Waiting(name, float(number), num_new_tokens=10, policy_class=name), 1)
    taken: Counter[str] = Counter()

    def take_a_hundred(waiting: Waiting[str]) -> bool:
        taken[waiting.item] += sum(taken.values()) < 100
        return sum(taken.values()) < 100

    queue.dispatch(take_a_hundred)

    assert taken["most"] == pytest.approx(75, abs=2)


def test_a_class_saves_up_no_turns_while_nobody_waits_in_it() -> None:
    queue = queue_of("fcfs", PolicyClass("a", quantum=10), PolicyClass("b", quantum=10), size_max=1000)
    for number in range(100):
        queue.add(Waiting("a", float(number), num_new_tokens=10, policy_class="a"), 1)
    remaining = iter(range(50))
    queue.dispatch(lambda waiting: next(remaining, None) is not None)
    for number in range(100):
        queue.add(Waiting("b", float(number), num_new_tokens=10, policy_class="b"), 1)

    assert Counter(order_of(queue)[:20])["b"] == pytest.approx(10, abs=1)


def test_a_class_that_was_alone_for_long_does_not_wait_for_one_that_comes_later_to_have_had_as_much() -> None:
    queue = queue_of("fcfs", PolicyClass("a", quantum=10), PolicyClass("b", quantum=10), size_max=1000)
    for number in range(500):
        queue.add(Waiting("a", float(number), num_new_tokens=10, policy_class="a"), 1)
    order_of(queue)
    for number in range(100):
        queue.add(Waiting("b", float(number), num_new_tokens=10, policy_class="b"), 1)
    for number in range(10):
        queue.add(Waiting("a", float(number), num_new_tokens=10, policy_class="a"), 1)

    assert Counter(order_of(queue)[:20])["a"] == pytest.approx(10, abs=1)


def test_what_a_class_had_before_the_queue_was_empty_does_not_count() -> None:
    queue = queue_of("fcfs", PolicyClass("a", quantum=10), PolicyClass("b", quantum=10), size_max=1000)
    queue.add(Waiting("a", 0.0, num_new_tokens=100_000, policy_class="a"), 1)
    order_of(queue)
    for number in range(20):
        for name in ("b", "a"):
            queue.add(Waiting(name, float(number), num_new_tokens=10, policy_class=name), 1)

    assert Counter(order_of(queue)[:20])["a"] == pytest.approx(10, abs=1)


@given(
    st.lists(st.tuples(st.floats(0, 100), st.integers(0, 3), st.integers(0, 2), st.booleans()), max_size=40),
    st.sampled_from(["fcfs", "lcfs", "wspt"]),
)
def test_everybody_who_stays_goes_once_and_higher_priorities_first(
    requests: list[tuple[float, int, int, bool]], policy: QueuePolicy
) -> None:
    queue = queue_of(policy)
    stay: list[int] = []
    for number, (arrival, priority, workers, leaves) in enumerate(requests):
        waiting = Waiting(str(number), arrival, workers, 1 + number, strict_priority=priority)
        queue.add(waiting, 1)
        if leaves:
            queue.remove(waiting)
        else:
            stay.append(number)

    order = [int(name) for name in order_of(queue)]

    assert sorted(order) == stay
    assert [requests[number][1] for number in order] == sorted((requests[number][1] for number in stay), reverse=True)
    assert len(queue) == 0

"""Routers that hear of each other's requests."""

from __future__ import annotations

import random
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from tests.llm.kv_router.prompts import BLOCK_SIZE, desk
from tests.llm.kv_router.worker_model import FixedWorkers, asked

from dynamo.llm._kv_router.affinity import Sessions
from dynamo.llm._kv_router.fleet import GONE_S
from dynamo.llm._kv_router.load import Tracking
from dynamo.llm._kv_router.replicas import BATCH_MAX, REPEAT_S, STALE_S, Added, Batch, Bound, Freed, Replicas
from dynamo.llm._kv_router.route import Desk, KvRoute

IDS = [1, 2]


class Side:
    """One router, and what it says and hears."""

    def __init__(self, router_id: int, *, block_size: int = BLOCK_SIZE) -> None:
        self.workers = FixedWorkers(IDS)
        self.sessions = Sessions(10.0)
        self.desk: Desk = desk(self.workers, sessions=self.sessions, seed=router_id)
        self.replicas = Replicas(router_id, block_size, self.desk.selector.fleet, Tracking(), self.sessions)
        self.desk.listeners.append(self.replicas)

    def send(self, num_tokens: int, *, first: int = 0, session_id: str | None = None) -> KvRoute:
        one = asked(list(range(first, first + num_tokens)))
        one.session_id = session_id
        route = self.desk.route(one, BLOCK_SIZE)
        route.choose(IDS)
        return route

    def tell(self, other: Side, now: float = 0.0, arrives: Callable[[], bool] = lambda: True) -> None:
        while self.replicas.has_news():
            batch = self.replicas.batch()
            if arrives():
                other.replicas.hear(batch, now)

    def loads(self) -> list[tuple[int, int, int]]:
        loads = self.desk.selector.fleet.loads(IDS)
        return [(load.num_requests, load.prefill_tokens, load.decode_blocks) for load in loads]


def test_what_one_router_books_counts_for_the_other_until_it_ends() -> None:
    one, other = Side(1), Side(2)
    route = one.send(10)
    one.tell(other)
    assert other.loads() == one.loads() != [(0, 0, 0)] * 2
    route.note_answer()
    one.tell(other)
    assert other.loads() == one.loads()
    route.close()
    one.tell(other)
    assert other.loads() == one.loads() == [(0, 0, 0)] * 2


def test_blocks_that_requests_of_two_routers_share_count_once() -> None:
    one, other = Side(1), Side(2)
    at = one.send(40).worker
    one.tell(other)
    other.desk.selector.fleet.loads(IDS)
    again = other.desk.route(asked(list(range(40)), pinned=at.worker_id if at else None), BLOCK_SIZE)
    again.choose(IDS)
    assert max(held for _, _, held in other.loads()) == 10


def test_a_router_does_not_count_what_it_said_itself() -> None:
    one = Side(1)
    one.send(10)
    before = one.loads()
    one.tell(one)
    assert one.loads() == before


def test_what_is_repeated_counts_once() -> None:
    one, other = Side(1), Side(2)
    one.send(10)
    one.tell(other)
    one.replicas.tick(REPEAT_S)
    one.tell(other, REPEAT_S)
    assert other.loads() == one.loads()


def test_a_request_of_hours_counts_as_long_as_it_is_repeated() -> None:
    one, other = Side(1), Side(2)
    one.send(10)
    one.tell(other)
    for now in range(0, 7200, 10):
        for side in (one, other):
            side.replicas.tick(float(now))
        one.tell(other, float(now))
    assert other.loads() == one.loads()


def test_a_request_at_a_worker_that_was_given_up_counts_again_when_the_worker_is_back() -> None:
    one, other = Side(1), Side(2)
    one.send(10)
    one.tell(other)
    other.workers.ids = []
    for now in (0.0, GONE_S):
        other.desk.selector.fleet.refresh(now)
    other.workers.ids = IDS
    assert other.loads() == [(0, 0, 0)] * 2
    one.replicas.tick(REPEAT_S)
    one.tell(other, REPEAT_S)
    assert other.loads() == one.loads()


def test_what_a_router_no_longer_says_is_forgotten() -> None:
    one, other = Side(1), Side(2)
    one.send(10)
    one.tell(other)
    other.replicas.tick(STALE_S)
    assert other.loads() == [(0, 0, 0)] * 2
    assert other.replicas.num_remote == 0


def test_routers_of_another_block_size_are_not_listened_to() -> None:
    one, other = Side(1), Side(2, block_size=8)
    one.send(10)
    one.tell(other)
    assert other.loads() == [(0, 0, 0)] * 2
    assert other.replicas.num_ignored == 1


def test_requests_at_workers_that_are_not_there_are_not_counted() -> None:
    one, other = Side(1), Side(2)
    one.send(10)
    other.workers.ids = []
    one.tell(other)
    assert other.replicas.num_remote == 0


def test_numbers_that_do_not_fit_each_other_are_not_counted() -> None:
    other = Side(2)
    for added in (Added(1, 1, 0, 8, 9, []), Added(2, 1, 0, 8, -1, []), Added(3, 1, 0, 8, 8, [1, 2, 3])):
        other.replicas.hear(Batch(1, BLOCK_SIZE, [added]), 0.0)
    assert other.loads() == [(0, 0, 0)] * 2
    assert other.replicas.num_ignored == 3


def test_a_request_whose_blocks_contradict_those_of_another_shares_none_with_it() -> None:
    other = Side(2)
    contradictions = [[10, 11, 12], [10, 7, 12], [5, 5], [10, 11, 9]]
    for number, checkpoints in enumerate(contradictions):
        other.replicas.hear(Batch(1, BLOCK_SIZE, [Added(number, 1, 0, 64, 0, checkpoints)]), 0.0)
    assert other.loads()[0] == (4, 0, 3 * 16 + 14)
    for number in range(4):
        other.replicas.hear(Batch(1, BLOCK_SIZE, [Freed(number)]), 0.0)
    assert other.loads() == [(0, 0, 0)] * 2


@given(st.lists(st.lists(st.integers(0, 4), max_size=6), max_size=8), st.permutations(range(8)))
def test_whatever_blocks_a_router_tells_of_nothing_is_left_when_their_requests_have_ended(
    heard: list[list[int]], order: list[int]
) -> None:
    other = Side(2)
    for number, checkpoints in enumerate(heard):
        other.replicas.hear(Batch(1, BLOCK_SIZE, [Added(number, 1, 0, 64, 0, checkpoints)]), 0.0)
    for number in order:
        other.replicas.hear(Batch(1, BLOCK_SIZE, [Freed(number)]), 0.0)
        assert min(other.loads()[0]) >= 0
    assert other.loads() == [(0, 0, 0)] * 2


def test_a_request_that_no_worker_could_take_is_not_counted() -> None:
    other = Side(2)
    other.replicas.hear(Batch(1, BLOCK_SIZE, [Added(1, 1, 0, 2**63, 2**63, [])]), 0.0)
    assert other.loads() == [(0, 0, 0)] * 2
    assert other.replicas.num_ignored == 1


def test_more_than_a_router_says_at_once_is_not_listened_to() -> None:
    other = Side(2)
    for num in (BATCH_MAX + 1, BATCH_MAX):
        other.replicas.hear(Batch(1, BLOCK_SIZE, [Added(number, 1, 0, 8, 8, []) for number in range(num)]), 0.0)
    assert (other.replicas.num_remote, other.replicas.num_ignored) == (BATCH_MAX, 1)


def test_a_name_that_no_session_can_have_is_not_kept() -> None:
    other = Side(2)
    other.replicas.hear(Batch(1, BLOCK_SIZE, [Bound("s" * 257, 1, 0)]), 0.0)
    assert (len(other.sessions), other.replicas.num_ignored) == (0, 1)


def test_a_session_that_one_router_binds_is_bound_for_the_other() -> None:
    one, other = Side(1), Side(2)
    route = one.send(10, session_id="s")
    one.tell(other)
    assert [other.send(10, session_id="s").worker for _ in range(4)] == [route.worker] * 4


@given(st.integers(0, 2**32), st.floats(0, 0.9))
def test_however_much_is_lost_both_count_the_same_some_time_later(seed: int, loss: float) -> None:
    rng = random.Random(seed)
    one, other = Side(1), Side(2)
    running: list[KvRoute] = []
    for _ in range(40):
        action = rng.random()
        if action < 0.5 or not running:
            running.append(one.send(rng.randrange(60), first=rng.randrange(3)))
        elif action < 0.75:
            rng.choice(running).note_answer()
        else:
            running.pop(rng.randrange(len(running))).close()
        one.tell(other, arrives=lambda: rng.random() >= loss)

    for now in range(0, int(2 * STALE_S), 10):
        one.replicas.tick(float(now))
        one.tell(other, float(now))
        other.replicas.tick(float(now))

    assert other.loads() == one.loads()
    for route in running:
        route.close()
    one.tell(other)
    assert other.loads() == [(0, 0, 0)] * 2


def test_a_session_is_bound_to_no_rank_that_there_is_not() -> None:
    side = Side(1)
    for number, (worker_id, dp_rank) in enumerate([(9, 0), (1, 5), (1, 0)]):
        side.replicas.hear(Batch(2, BLOCK_SIZE, [Bound(f"s{number}", worker_id, dp_rank)]), 0.0)
    assert [side.sessions.find(f"s{number}", 1.0) for number in range(3)] == [None, None, (1, 0)]

"""Sessions and their workers."""

from __future__ import annotations

import pytest
from tests.llm.kv_router.prompts import BLOCK_SIZE, desk
from tests.llm.kv_router.worker_model import FixedWorkers, asked

from dynamo._core.prefix_index import WorkerKey
from dynamo.llm._kv_router.affinity import Sessions
from dynamo.llm._kv_router.config import AffinityMode
from dynamo.llm._kv_router.decision import ChosenBy
from dynamo.llm._kv_router.route import Desk
from dynamo.llm._routing import Asked

A, B = WorkerKey(1), WorkerKey(2)


def ask(num_tokens: int, session_id: str) -> Asked:
    one = asked(list(range(num_tokens)))
    one.session_id = session_id
    return one


def take(at: Desk, num_tokens: int, session_id: str, ids: list[int]) -> int:
    return at.route(ask(num_tokens, session_id), BLOCK_SIZE).choose(ids)


def test_a_session_is_bound_until_it_was_not_used_for_so_long() -> None:
    sessions = Sessions(10.0)
    sessions.bind("s", A, 0.0)
    assert sessions.find("s", 9.0) == A
    assert sessions.find("s", 10.0) is None


def test_the_least_recently_used_session_is_forgotten_first() -> None:
    sessions = Sessions(10.0, size_max=2)
    for session_id in ("a", "b", "a", "c"):
        sessions.bind(session_id, A, 0.0)
    assert [sessions.find(session_id, 1.0) for session_id in "abc"] == [A, None, A]


def test_sessions_that_nobody_uses_take_no_room() -> None:
    sessions = Sessions(10.0)
    sessions.bind("a", A, 0.0)
    sessions.bind("b", A, 5.0)
    sessions.expire(10.0)
    assert len(sessions) == 1


def test_two_routers_that_bind_a_session_at_the_same_time_come_to_agree() -> None:
    one, other = Sessions(10.0), Sessions(10.0)
    one.bind("s", A, 0.0)
    other.bind("s", B, 0.0)
    one.merge("s", B, 1.0, lambda worker: True)
    other.merge("s", A, 1.0, lambda worker: True)
    assert one.find("s", 2.0) == other.find("s", 2.0) == A


def test_what_another_router_says_counts_where_the_own_worker_is_gone() -> None:
    sessions = Sessions(10.0)
    sessions.bind("s", A, 0.0)
    sessions.merge("s", B, 1.0, lambda worker: worker == B)
    assert sessions.find("s", 2.0) == B


def test_what_another_router_says_of_a_worker_that_is_gone_counts_nothing() -> None:
    sessions = Sessions(10.0)
    for own in (None, B):
        if own is not None:
            sessions.bind("s", own, 0.0)
        sessions.merge("s", A, 1.0, lambda worker: worker == B)
        assert sessions.find("s", 2.0) == own


def test_requests_of_a_session_go_where_the_first_one_went_however_dear_that_is() -> None:
    at = desk(FixedWorkers([1, 2]), sessions=Sessions(10.0))
    first = take(at, 100, "s", [1, 2])
    assert {take(at, 100, "s", [1, 2]) for _ in range(5)} == {first}
    assert at.decisions.recent(1)[0].chosen_by is ChosenBy.SESSION


def test_a_session_whose_worker_is_gone_goes_elsewhere_and_stays_there() -> None:
    at = desk(FixedWorkers([1, 2, 3]), sessions=Sessions(10.0))
    first = take(at, 100, "s", [1, 2, 3])
    others = [id for id in (1, 2, 3) if id != first]
    second = take(at, 100, "s", others)
    assert {take(at, 100, "s", [1, 2, 3]) for _ in range(3)} == {second}


@pytest.mark.parametrize(("mode", "goes_elsewhere"), [("hard", False), ("soft", True)])
def test_a_soft_session_goes_elsewhere_if_that_is_much_cheaper(mode: AffinityMode, goes_elsewhere: bool) -> None:
    at = desk(FixedWorkers([1, 2]), sessions=Sessions(10.0), affinity_mode=mode)
    first = take(at, 1000, "s", [1, 2])
    assert (take(at, 40, "s", [1, 2]) != first) is goes_elsewhere


def test_a_soft_session_stays_if_others_are_only_a_little_cheaper() -> None:
    at = desk(FixedWorkers([1, 2]), sessions=Sessions(10.0), affinity_mode="soft")
    first = take(at, 40, "s", [1, 2])
    assert take(at, 100, "s", [1, 2]) == first

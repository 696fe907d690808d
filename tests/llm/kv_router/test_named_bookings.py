"""Requests that are booked by their ids."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st
from tests.llm.kv_router.prompts import BLOCK_SIZE, desk
from tests.llm.kv_router.worker_model import FixedWorkers, asked

from dynamo._core.prefix_index import WorkerKey
from dynamo.llm._kv_router.bookings import NamedRoutes
from dynamo.llm._kv_router.fleet import GONE_S

IDS = [1, 2, 3]


class Bookings:
    """Routes by name, and their workers."""

    def __init__(self, size_max: int = 100) -> None:
        self.workers = FixedWorkers(IDS)
        self.desk = desk(self.workers)
        self.named = NamedRoutes(size_max)

    def book(self, request_id: str, worker_id: int) -> None:
        route = self.desk.route(asked(list(range(10)), pinned=worker_id), BLOCK_SIZE)
        route.choose(IDS)
        self.named.add(request_id, route)

    def give_up(self, worker_ids: Iterable[int]) -> None:
        """Have workers be gone for good."""
        self.workers.ids = [id for id in IDS if id not in worker_ids]
        self.desk.selector.fleet.refresh(0.0)
        self.named.expire(self.desk.selector.fleet.refresh(GONE_S))
        self.workers.ids = IDS

    def num_requests(self) -> list[int]:
        return [load.num_requests for load in self.desk.selector.fleet.loads(IDS)]


def test_the_requests_of_a_worker_that_is_given_up_are_forgotten_and_no_others() -> None:
    bookings = Bookings()
    for request_id, worker_id in (("a", 1), ("b", 2), ("c", 1)):
        bookings.book(request_id, worker_id)
    bookings.give_up([1])
    assert [bookings.named.free(request_id) for request_id in "abc"] == [False, True, False]
    assert len(bookings.named) == 0


def test_of_too_many_the_oldest_is_freed() -> None:
    bookings = Bookings(size_max=2)
    for request_id in "abc":
        bookings.book(request_id, 1)
    assert (bookings.named.num_dropped, bookings.num_requests()) == (1, [2, 0, 0])
    assert [bookings.named.free(request_id) for request_id in "abc"] == [False, True, True]


def test_workers_that_have_nothing_are_given_up_without_harm() -> None:
    Bookings().named.expire([WorkerKey(1)])


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from([0, *IDS]), st.booleans()), max_size=30))
def test_whatever_is_booked_freed_and_given_up_as_many_are_known_as_count(
    steps: list[tuple[str, int, bool]],
) -> None:
    bookings = Bookings(size_max=3)
    for request_id, worker_id, is_given_up in steps:
        if worker_id and is_given_up:
            bookings.give_up([worker_id])
        elif worker_id:
            bookings.book(request_id, worker_id)
        else:
            bookings.named.free(request_id)
        assert len(bookings.named) == sum(bookings.num_requests()) <= 3
    bookings.named.close()
    assert bookings.num_requests() == [0, 0, 0]

"""One place of a worker: when it is filled again, how long that waits, and when it is given up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.sdk.fake_worker import FakeWorker

from dynamo.sdk._slot import Backoff, Loss, RestartPolicy, Slot
from dynamo.sdk._status import Failed

POLICY = RestartPolicy(first_delay_s=0.5, delay_s_max=30.0, steady_s=60.0, failed_starts_max=5)
SWIFT = RestartPolicy(first_delay_s=0.0, failed_starts_max=3)


# The delays.


def crash_soon_after_ready(backoff: Backoff, now: float) -> float | None:
    backoff.became_ready(now)
    return backoff.delay_after_end(now + 1)


def test_each_delay_is_twice_the_one_before_up_to_the_longest() -> None:
    backoff = Backoff(POLICY)
    assert [crash_soon_after_ready(backoff, 0) for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert backoff.restarts == 8


def test_a_worker_that_was_steady_starts_from_the_first_delay_again() -> None:
    backoff = Backoff(POLICY)
    for _ in range(3):
        crash_soon_after_ready(backoff, 0)
    backoff.became_ready(100)
    assert backoff.delay_after_end(100 + POLICY.steady_s) == 0.5
    assert backoff.restarts == 1


def test_a_worker_that_was_ready_a_moment_less_is_not_steady() -> None:
    backoff = Backoff(POLICY)
    crash_soon_after_ready(backoff, 0)
    backoff.became_ready(100)
    assert backoff.delay_after_end(100 + POLICY.steady_s - 0.1) == 1


def test_starts_that_fail_in_a_row_are_given_up() -> None:
    backoff = Backoff(POLICY)
    assert [backoff.delay_after_end(0) for _ in range(5)] == [0.5, 1, 2, 4, None]
    assert backoff.failed_starts == 5


def test_a_start_that_succeeds_ends_the_row() -> None:
    backoff = Backoff(POLICY)
    for _ in range(4):
        backoff.delay_after_end(0)
    assert crash_soon_after_ready(backoff, 0) is not None
    assert backoff.failed_starts == 0


def test_starts_that_fail_because_a_server_is_away_are_never_given_up_and_wait_less() -> None:
    backoff = Backoff(POLICY)
    assert [backoff.delay_after_end(0, is_away=True) for _ in range(8)] == [0.5, 1, 2, 4, 5, 5, 5, 5]
    assert (backoff.failed_starts, backoff.restarts) == (0, 8)


def test_a_start_that_fails_because_a_server_is_away_leaves_the_row_of_the_others_as_it_is() -> None:
    backoff = Backoff(POLICY)
    delays = [backoff.delay_after_end(0, is_away=is_away) for is_away in [False] * 4 + [True] * 3 + [False]]
    assert delays[-2:] == [5, None]


@given(st.lists(st.tuples(st.one_of(st.none(), st.floats(0, 200)), st.booleans()), max_size=40))
def test_no_delay_is_longer_than_the_longest_nor_shorter_than_the_first(
    starts: list[tuple[float | None, bool]],
) -> None:
    backoff = Backoff(POLICY)
    now = 0.0
    for ready_s, is_away in starts:
        if ready_s is not None:
            backoff.became_ready(now)
            now += ready_s
        delay_s = backoff.delay_after_end(now, is_away=is_away)
        if delay_s is None:
            return
        assert POLICY.first_delay_s <= delay_s <= POLICY.delay_s_max


# The place.


class Place:
    """A slot, the workers that it has started, and what it told."""

    def __init__(self, policy: RestartPolicy | None) -> None:
        self.workers: list[FakeWorker] = []
        self.losses: list[Loss] = []
        self.times_ready_again = 0
        self._changed = asyncio.Event()
        self.slot = Slot("Worker", 2, self._launch, self, policy, clock=lambda: 0.0)
        self.task = asyncio.create_task(self.slot.run())

    def _launch(self, on_change: Callable[[], None]) -> FakeWorker:
        self.workers.append(FakeWorker(on_change))
        return self.workers[-1]

    def changed(self) -> None:
        self._changed.set()

    def lost(self, slot: Slot, loss: Loss) -> None:
        assert slot is self.slot
        self.losses.append(loss)

    def ready_again(self, slot: Slot) -> None:
        self.times_ready_again += 1

    async def worker(self, number: int) -> FakeWorker:
        """The process that was started as this one, from 1."""
        async with asyncio.timeout(60):
            while len(self.workers) < number:  # noqa: ASYNC110 - a turn of the loop is what it waits for
                await asyncio.sleep(0)
        return self.workers[number - 1]


async def test_a_worker_that_crashes_in_service_is_started_again() -> None:
    place = Place(SWIFT)
    (await place.worker(1)).become_ready()
    place.slot.in_service = True
    place.workers[0].kill()
    (await place.worker(2)).become_ready()
    assert place.losses == [Loss("killed by SIGKILL", was_ready=True, delay_s=0.0, restarts=1, failed_starts=0)]
    assert place.times_ready_again == 1
    assert place.slot.is_ready
    place.slot.stop()
    await place.task
    assert place.slot.is_over


async def test_a_worker_that_is_done_is_not_started_again() -> None:
    place = Place(SWIFT)
    (await place.worker(1)).become_ready()
    place.slot.in_service = True
    place.workers[0].is_done = True
    place.workers[0].kill()
    await place.task
    assert [loss.delay_s for loss in place.losses] == [None]
    assert len(place.workers) == 1


async def test_a_worker_that_fails_before_the_graph_was_ready_is_not_started_again() -> None:
    place = Place(SWIFT)
    (await place.worker(1)).kill()
    await place.task
    assert place.losses == [Loss("killed by SIGKILL", was_ready=False, delay_s=None, restarts=0, failed_starts=0)]
    assert len(place.workers) == 1


async def test_without_a_policy_no_worker_is_started_again() -> None:
    place = Place(None)
    (await place.worker(1)).become_ready()
    place.slot.in_service = True
    place.workers[0].kill()
    await place.task
    assert [loss.delay_s for loss in place.losses] == [None]
    assert place.slot.is_over


async def test_a_place_is_given_up_after_starts_that_fail() -> None:
    place = Place(SWIFT)
    place.slot.in_service = True
    for number in (1, 2, 3):
        (await place.worker(number)).kill()
    await place.task
    assert [loss.delay_s for loss in place.losses] == [0.0, 0.0, None]
    assert place.losses[-1].failed_starts == 3


async def test_a_place_is_not_given_up_while_a_server_is_away() -> None:
    place = Place(SWIFT)
    place.slot.in_service = True
    for number in range(1, 6):
        worker = await place.worker(number)
        worker.say(Failed("no etcd", is_away=True))
        worker.kill()
    (await place.worker(6)).become_ready()
    assert [loss.delay_s for loss in place.losses] == [0.0] * 5
    place.slot.stop()
    await place.task


async def test_a_stop_while_a_start_waits_starts_nothing() -> None:
    place = Place(RestartPolicy(first_delay_s=3600.0))
    place.slot.in_service = True
    (await place.worker(1)).become_ready()
    place.workers[0].kill()
    await place.workers[0].ended.wait()
    place.slot.stop()
    async with asyncio.timeout(60):
        await place.task
    assert len(place.workers) == 1


async def test_a_worker_that_is_asked_to_end_is_no_loss() -> None:
    place = Place(SWIFT)
    place.slot.in_service = True
    (await place.worker(1)).become_ready()
    place.slot.stop()
    await place.task
    assert place.losses == []


@pytest.mark.parametrize("end", [Slot.stop, Slot.retire, Slot.kill])
async def test_an_end_is_final(end: Callable[[Slot], None]) -> None:
    place = Place(SWIFT)
    place.slot.in_service = True
    await place.worker(1)
    end(place.slot)
    await place.task
    assert (len(place.workers), place.slot.is_over, place.slot.has_stopped) == (1, True, True)

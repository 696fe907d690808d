"""Requests that wait while every worker has enough to compute."""

from __future__ import annotations

import asyncio

import pytest
from tests.llm.kv_router.cluster import turns
from tests.llm.kv_router.prompts import BLOCK_SIZE, desk
from tests.llm.kv_router.worker_model import FixedWorkers, asked

from dynamo._core.context import Context
from dynamo._core.errors import (
    Cancelled,
    DeadlineExceeded,
    NoInstances,
    Overloaded,
    RouterQueueLimitExceeded,
)
from dynamo.llm._kv_router.admission import Admission
from dynamo.llm._kv_router.config import KvRouterConfig, PolicyClass
from dynamo.llm._kv_router.route import Desk, KvRoute
from dynamo.llm._routing import Asked, RoutingConstraints

#: A worker is busy when it has more than that to compute.
BATCH = 100


class Door:
    """A router that has requests wait."""

    def __init__(self, num_workers: int = 1, **options: object) -> None:
        config = KvRouterConfig(queue_threshold=1.0, **options)  # type: ignore[arg-type]
        ids = list(range(1, num_workers + 1))
        cards: dict[int, dict[str, object]] = {id: {"max_num_batched_tokens": BATCH} for id in ids}
        self.workers = FixedWorkers(ids, cards)
        self.desk: Desk = desk(self.workers, config=config)
        self.desk.clock = asyncio.get_running_loop().time
        self.passed_over: set[int] = set()
        self.admission = Admission(config, self.desk.selector, self.workers.instance_ids, self.passed_over.__contains__)
        self.desk.listeners.append(self.admission)

    async def admit(self, one: Asked) -> KvRoute:
        route = self.desk.route(one, BLOCK_SIZE)
        await self.admission.admit(route)
        return route

    async def fill(self) -> list[KvRoute]:
        """Have each worker be busy."""
        return [await self.admit(ask(BATCH + 1)) for _ in self.workers.ids]

    @property
    def num_waiting(self) -> int:
        return sum(self.admission.lengths().values())

    @property
    def num_booked(self) -> int:
        return sum(load.num_requests for load in self.desk.selector.fleet.loads(self.workers.ids))


def ask(num_tokens: int = 10, *, deadline: float | None = None, **fields: object) -> Asked:
    one = asked(list(range(num_tokens)))
    one.context = Context(deadline=deadline)
    for name, value in fields.items():
        setattr(one, name, value)
    return one


async def test_a_request_does_not_wait_while_a_worker_has_room() -> None:
    door = Door(2)
    routes = [await door.admit(ask(BATCH + 1)) for _ in range(2)]
    assert {route.worker.worker_id for route in routes if route.worker} == {1, 2}


async def test_it_waits_until_a_prompt_is_computed() -> None:
    door = Door(2)
    busy = await door.fill()
    waiting = asyncio.create_task(door.admit(ask()))
    await turns()
    assert (door.num_waiting, waiting.done()) == (1, False)

    busy[1].note_answer()

    route = await waiting
    assert route.worker == busy[1].worker
    assert route.choose([1, 2]) == route.worker.worker_id if route.worker else None
    assert door.desk.selector.stats.queued == 1


@pytest.mark.parametrize("ends", ["closed", "gone"])
async def test_or_until_one_ends_or_another_worker_comes(ends: str) -> None:
    door = Door()
    (busy,) = await door.fill()
    waiting = asyncio.create_task(door.admit(ask()))
    await turns()
    if ends == "closed":
        busy.close()
    else:
        door.workers.ids.append(2)
        door.admission.wake()
    assert (await waiting).is_open


async def test_room_that_one_has_taken_is_not_given_to_another() -> None:
    door = Door()
    (busy,) = await door.fill()
    waiting = [asyncio.create_task(door.admit(ask(BATCH + 1))) for _ in range(3)]
    await turns()
    busy.close()
    await turns()
    assert [task.done() for task in waiting] == [True, False, False]
    for number, task in enumerate(waiting):
        (await task).close()
        await turns()
        assert door.num_waiting == max(0, 1 - number)


async def test_who_comes_later_does_not_overtake_those_who_wait() -> None:
    door = Door()
    (busy,) = await door.fill()
    first = asyncio.create_task(door.admit(ask(BATCH + 1)))
    await turns()
    busy.close()
    second = asyncio.create_task(door.admit(ask()))
    await turns()
    assert (first.done(), second.done()) == (True, False)
    (await first).close()
    await second


async def test_a_request_that_has_waited_says_how_long() -> None:
    door = Door()
    (busy,) = await door.fill()
    waiting = asyncio.create_task(door.admit(ask()))
    await turns()
    busy.close()
    decision = (await waiting).decision
    assert decision is not None
    assert 0 < decision.queue_s < 10


async def test_a_request_whose_time_is_up_waits_no_longer() -> None:
    door = Door()
    await door.fill()
    with pytest.raises(DeadlineExceeded, match="waited for a worker with room"):
        await door.admit(ask(deadline=asyncio.get_running_loop().time() + 0.01))
    assert (door.num_waiting, door.num_booked) == (0, 1)
    assert door.desk.selector.stats.queue_abandoned == 1


async def test_a_request_without_a_deadline_does_not_wait_for_ever_either() -> None:
    door = Door(queue_timeout_s=0.01)
    await door.fill()
    with pytest.raises(Overloaded, match=r"within 0\.01 s"):
        await door.admit(ask())


async def test_a_request_that_is_cancelled_waits_no_longer() -> None:
    door = Door()
    await door.fill()
    one = ask()
    waiting = asyncio.create_task(door.admit(one))
    await turns()
    one.context.kill()
    with pytest.raises(Cancelled):
        await waiting
    assert (door.num_waiting, door.num_booked) == (0, 1)


async def test_a_task_that_is_cancelled_just_when_it_was_its_turn_books_nothing() -> None:
    door = Door()
    (busy,) = await door.fill()
    waiting = asyncio.create_task(door.admit(ask()))
    await turns()
    busy.close()
    await asyncio.sleep(0)  # its turn comes, and it does not know yet
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (door.num_waiting, door.num_booked) == (0, 0)


async def test_a_request_that_could_go_nowhere_does_not_wait() -> None:
    door = Door()
    await door.fill()
    wishes = RoutingConstraints(required_taints=frozenset({"fast"}))
    with pytest.raises(NoInstances):
        await door.admit(ask(constraints=wishes))


async def test_those_who_wait_are_told_when_the_last_worker_is_gone() -> None:
    door = Door()
    await door.fill()
    waiting = asyncio.create_task(door.admit(ask()))
    await turns()
    door.workers.ids.clear()
    door.admission.wake()
    with pytest.raises(NoInstances):
        await waiting
    assert door.num_waiting == 0


async def test_a_request_for_a_worker_with_room_does_not_wait_for_others() -> None:
    door = Door(2)
    first = await door.admit(ask(BATCH + 1))
    assert first.worker is not None
    blocked = asyncio.create_task(door.admit(ask(pinned_instance=first.worker.worker_id)))
    await turns()
    assert (await door.admit(ask())).worker != first.worker
    first.close()
    await blocked


async def test_those_who_wait_are_told_when_the_router_is_closed() -> None:
    door = Door()
    await door.fill()
    waiting = [asyncio.create_task(door.admit(ask())) for _ in range(3)]
    await turns()
    door.admission.close()
    for task in waiting:
        with pytest.raises(NoInstances, match="was closed") as caught:
            await task
        assert "gone" not in caught.value.message
    assert door.num_waiting == 0


async def test_the_room_of_a_worker_that_is_passed_over_is_none() -> None:
    door = Door(2)
    door.passed_over.add(1)
    busy = await door.admit(ask(BATCH + 1))
    assert (busy.choose([2]), door.num_booked) == (2, 1)
    waiting = asyncio.create_task(door.admit(ask()))
    await turns()
    assert (door.num_waiting, waiting.done()) == (1, False)
    busy.close()
    assert (await waiting).choose([2]) == 2


async def test_where_all_are_passed_over_the_room_of_each_counts() -> None:
    door = Door(2)
    door.passed_over |= {1, 2}
    routes = await door.fill()
    assert {route.worker.worker_id for route in routes if route.worker} == {1, 2}


async def test_a_request_for_a_worker_that_is_passed_over_waits_for_that_one() -> None:
    door = Door(2)
    door.passed_over.add(1)
    (await door.admit(ask(pinned_instance=1))).close()
    first = await door.admit(ask(BATCH + 1, pinned_instance=1))
    waiting = asyncio.create_task(door.admit(ask(pinned_instance=1)))
    await turns()
    assert not waiting.done()
    first.close()
    assert (await waiting).choose([1, 2]) == 1


async def test_a_worker_that_may_be_tried_again_is_weighed_though_it_was_passed_over() -> None:
    door = Door(2)
    await door.admit(ask(BATCH, pinned_instance=2))
    door.passed_over.add(1)
    route = await door.admit(ask())
    assert route.worker is not None
    assert route.worker.worker_id == 2
    assert route.choose([1, 2]) == 1


async def test_many_who_wait_for_workers_of_their_own_are_looked_at_once_each() -> None:
    door = Door(8)
    await door.fill()
    waiting = [asyncio.create_task(door.admit(ask(pinned_instance=id))) for id in door.workers.ids]
    await turns()
    before = door.workers.num_asked
    door.admission.wake()
    await turns()
    assert door.workers.num_asked - before == 1
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_no_more_wait_than_may() -> None:
    door = Door(queue_size_max=1)
    await door.fill()
    waiting = asyncio.create_task(door.admit(ask()))
    await turns()
    with pytest.raises(RouterQueueLimitExceeded):
        await door.admit(ask())
    assert door.desk.selector.stats.queue_rejected == 1
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_classes_have_lines_of_their_own() -> None:
    door = Door(policy_classes=(PolicyClass("batch", waiting_requests_limit_per_worker=1),))
    await door.fill()
    tasks = [asyncio.create_task(door.admit(ask(policy_class=name))) for name in ("batch", None)]
    await turns()
    with pytest.raises(RouterQueueLimitExceeded) as caught:
        await door.admit(ask(policy_class="batch"))
    assert caught.value.policy_class == "batch"
    assert door.admission.lengths() == {"default": 1, "batch": 1}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert door.num_waiting == 0

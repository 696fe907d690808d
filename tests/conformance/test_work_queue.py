"""What every work queue must do, run on each of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio
from tests.nats_server import nats_server

from dynamo._core.discovery.memory import MemoryDiscovery
from dynamo._core.errors import DynamoError, InvalidArgument, Overloaded
from dynamo._core.limits import JOB_BYTES_MAX
from dynamo._core.request_plane.tcp import TcpPlane
from dynamo._core.work_queue import Job, QueueLimits, WorkQueue
from dynamo._core.work_queue.embedded import EmbeddedWorkQueue, serve_work_queue
from dynamo._core.work_queue.memory import MemoryWorkQueue
from dynamo._core.work_queue.nats import NatsWorkQueue

DEADLINE_S = 60.0
#: For tests in which a job's time runs out, and for those in which it must not.
SHORT_S, LONG_S = 0.5, 30.0

Open = Callable[[QueueLimits], Awaitable[tuple[WorkQueue, WorkQueue]]]


@pytest_asyncio.fixture(params=["memory", "embedded", "nats"])
async def open_two(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Open]:
    """Opens one queue, as two parties see it."""
    async with AsyncExitStack() as stack:
        url = (await stack.enter_async_context(nats_server(tmp_path / "nats"))).url if request.param == "nats" else ""

        async def open_one(limits: QueueLimits, discovery: MemoryDiscovery) -> WorkQueue:
            queue: WorkQueue
            if request.param == "nats":
                queue = await NatsWorkQueue.connect(url, "prefill", limits, environ={})
            else:
                plane = TcpPlane()
                stack.push_async_callback(plane.close)
                queue = EmbeddedWorkQueue("prefill", plane, discovery)
            stack.push_async_callback(queue.close)
            return queue

        async def open_two(limits: QueueLimits) -> tuple[WorkQueue, WorkQueue]:
            if request.param == "memory":
                queue = MemoryWorkQueue(limits)
                stack.push_async_callback(queue.close)
                return queue, queue
            discovery = MemoryDiscovery()
            if request.param == "embedded":
                plane = TcpPlane()
                stack.push_async_callback(plane.close)
                lease = await discovery.grant()
                served = await serve_work_queue("prefill", plane, discovery, lease, limits)
                stack.push_async_callback(served.close)
            return await open_one(limits, discovery), await open_one(limits, discovery)

        yield open_two


@pytest_asyncio.fixture
async def two(open_two: Open) -> tuple[WorkQueue, WorkQueue]:
    return await open_two(QueueLimits(jobs_max=100, visibility_s=LONG_S))


@pytest_asyncio.fixture
async def hasty(open_two: Open) -> tuple[WorkQueue, WorkQueue]:
    """Two parties of a queue that does not wait long for its consumers."""
    return await open_two(QueueLimits(jobs_max=100, visibility_s=SHORT_S, attempts_max=3))


async def take(queue: WorkQueue) -> Job:
    """Take the next job; there must be one."""
    job = await queue.dequeue(DEADLINE_S)
    assert job is not None
    return job


# Jobs go in and come out


async def test_jobs_come_out_in_order(two: tuple[WorkQueue, WorkQueue]) -> None:
    here, there = two
    for number in range(20):
        await here.enqueue(b"%d" % number)
    for number in range(20):
        job = await take(there)
        assert (job.payload, job.attempt) == (b"%d" % number, 1)
        await job.ack()
    assert await here.size() == 0


async def test_an_empty_queue_gives_nothing(two: tuple[WorkQueue, WorkQueue]) -> None:
    assert await two[0].dequeue(0) is None
    assert await two[0].dequeue(0.05) is None
    assert await two[0].size() == 0


async def test_who_waits_gets_the_job_that_comes(two: tuple[WorkQueue, WorkQueue]) -> None:
    here, there = two
    waiting = asyncio.create_task(take(there))
    await asyncio.sleep(0.01)
    await here.enqueue(b"work")
    assert (await waiting).payload == b"work"


async def test_each_job_goes_to_one_of_many_that_wait(two: tuple[WorkQueue, WorkQueue]) -> None:
    here, there = two
    waiting = [asyncio.create_task(take(queue)) for _ in range(10) for queue in (here, there)]
    await asyncio.sleep(0.01)
    for number in range(20):
        await here.enqueue(b"%d" % number)
    jobs = await asyncio.gather(*waiting)
    assert {job.payload for job in jobs} == {b"%d" % number for number in range(20)}


async def test_what_was_not_acknowledged_counts(two: tuple[WorkQueue, WorkQueue]) -> None:
    here, there = two
    for _ in range(3):
        await here.enqueue(b"")
    assert await there.size() == 3
    job = await take(there)
    assert await here.size() == 3
    await job.ack()
    assert await here.size() == 2


@pytest.mark.parametrize("size_bytes", [0, 1, JOB_BYTES_MAX])
async def test_a_job_may_be_empty_and_may_be_large(two: tuple[WorkQueue, WorkQueue], size_bytes: int) -> None:
    await two[0].enqueue(bytes(size_bytes))
    job = await take(two[1])
    assert job.payload == bytes(size_bytes)
    await job.ack()


# Jobs come again


async def test_a_job_that_is_given_back_comes_again_at_once(two: tuple[WorkQueue, WorkQueue]) -> None:
    here, there = two
    await here.enqueue(b"work")
    await (await take(there)).nack()
    again = await take(here)
    assert (again.payload, again.attempt) == (b"work", 2)


async def test_a_job_that_is_not_acknowledged_in_time_comes_again(hasty: tuple[WorkQueue, WorkQueue]) -> None:
    here, there = hasty
    await here.enqueue(b"work")
    await take(there)
    again = await take(here)
    assert (again.payload, again.attempt) == (b"work", 2)
    await again.ack()
    assert await here.size() == 0


async def test_a_job_that_is_acknowledged_never_comes_again(hasty: tuple[WorkQueue, WorkQueue]) -> None:
    here, there = hasty
    await here.enqueue(b"work")
    await (await take(there)).ack()
    assert await here.dequeue(SHORT_S * 3) is None


async def test_who_asks_for_more_time_keeps_the_job(hasty: tuple[WorkQueue, WorkQueue]) -> None:
    here, there = hasty
    loop = asyncio.get_running_loop()
    is_late = True
    while is_late:  # who asks too late, since all stood still, has shown nothing
        await here.enqueue(b"work")
        job = await take(there)
        asked_at, longest_s = loop.time(), 0.0
        for _ in range(8):
            other = await here.dequeue(SHORT_S / 4)
            await job.extend()
            longest_s, asked_at = max(longest_s, loop.time() - asked_at), loop.time()
            if other is not None:
                break
        await job.ack()
        is_late = longest_s >= SHORT_S
    assert other is None
    assert await here.size() == 0


async def test_a_late_acknowledgement_ends_the_job(hasty: tuple[WorkQueue, WorkQueue]) -> None:
    here, there = hasty
    await here.enqueue(b"work")
    late = await take(there)
    again = await take(here)
    await late.ack()
    assert await here.size() == 0
    await again.ack()
    await again.nack()
    assert await here.dequeue(SHORT_S * 2) is None


async def test_giving_back_late_takes_the_job_from_nobody(hasty: tuple[WorkQueue, WorkQueue]) -> None:
    here, there = hasty
    loop = asyncio.get_running_loop()
    is_late = True
    while is_late:  # whose time has run out as well, since all stood still, has shown nothing
        await here.enqueue(b"work")
        late = await take(there)
        again, taken_at = await take(here), loop.time()
        await late.nack()
        await late.extend()
        other = await there.dequeue(0)
        is_late = loop.time() - taken_at >= SHORT_S / 2
        await again.ack()
    assert other is None
    assert await there.size() == 0


async def test_acknowledging_twice_changes_nothing(two: tuple[WorkQueue, WorkQueue]) -> None:
    here, there = two
    await here.enqueue(b"1")
    await here.enqueue(b"2")
    job = await take(there)
    await job.ack()
    await job.ack()
    await job.nack()
    assert await here.size() == 1
    assert (await take(there)).payload == b"2"


async def test_a_job_that_nobody_can_do_is_given_up(open_two: Open) -> None:
    here, there = await open_two(QueueLimits(visibility_s=LONG_S, attempts_max=3))
    await here.enqueue(b"poison")
    await here.enqueue(b"fine")
    seen = []
    while b"fine" not in seen:
        job = await take(there)
        seen.append(job.payload)
        if job.payload == b"poison":
            await job.nack()
        else:
            await job.ack()
    for _ in range(3 - seen.count(b"poison")):
        await (await take(there)).nack()
    assert await there.dequeue(0.1) is None
    assert await here.size() == 0


async def test_a_waiter_that_is_cancelled_loses_no_job(hasty: tuple[WorkQueue, WorkQueue]) -> None:
    here, there = hasty
    for turn in range(10):
        waiting = asyncio.create_task(there.dequeue(DEADLINE_S))
        for _ in range(turn):
            await asyncio.sleep(0)
        enqueuing = asyncio.create_task(here.enqueue(b"%d" % turn))
        for _ in range(turn):
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting, enqueuing])
        if waiting.cancelled():
            job = await take(here)
        else:
            result = waiting.result()
            assert result is not None
            job = result
        assert job.payload == b"%d" % turn
        await job.ack()
    assert await here.size() == 0


# Limits


async def test_a_full_queue_says_so_and_takes_jobs_again_when_one_is_done(open_two: Open) -> None:
    here, there = await open_two(QueueLimits(jobs_max=3, visibility_s=LONG_S))
    for _ in range(3):
        await here.enqueue(b"work")
    job = await take(there)
    with pytest.raises(Overloaded, match="full"):
        await here.enqueue(b"one more")
    await job.ack()
    await here.enqueue(b"one more")
    assert await here.size() == 3


async def test_a_job_over_the_limit_is_refused(two: tuple[WorkQueue, WorkQueue]) -> None:
    with pytest.raises(InvalidArgument, match="exceeds"):
        await two[0].enqueue(bytes(JOB_BYTES_MAX + 1))
    assert await two[0].size() == 0


@pytest.mark.parametrize("timeout_s", [-1.0, float("nan"), float("inf")])
async def test_a_time_that_nobody_can_wait_is_refused(two: tuple[WorkQueue, WorkQueue], timeout_s: float) -> None:
    with pytest.raises(InvalidArgument, match="timeout_s"):
        await two[0].dequeue(timeout_s)


async def test_what_is_closed_says_so(two: tuple[WorkQueue, WorkQueue]) -> None:
    queue = two[0]
    await queue.close()
    await queue.close()
    for operation in (queue.enqueue(b""), queue.dequeue(0), queue.size()):
        with pytest.raises(DynamoError, match="closed"):
            await operation


async def test_many_consumers_do_all_the_work_though_some_of_them_fail(two: tuple[WorkQueue, WorkQueue]) -> None:
    here, there = two
    done: list[bytes] = []

    async def work(queue: WorkQueue, fails: bool) -> None:
        while (job := await queue.dequeue(SHORT_S * 4)) is not None:
            if fails and job.attempt == 1:
                await job.nack()
            else:
                done.append(job.payload)
                await job.ack()

    for number in range(60):
        await here.enqueue(b"%d" % number)
    async with asyncio.TaskGroup() as group:
        for queue in (here, there):
            group.create_task(work(queue, False))
            group.create_task(work(queue, True))
    assert sorted(done, key=int) == [b"%d" % number for number in range(60)]

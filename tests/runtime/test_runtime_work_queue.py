"""Work queues of runtimes: the same code on the embedded queue and on NATS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest
from pydantic import BaseModel
from tests.nats_server import nats_server

from dynamo._core.discovery.memory import MemoryDiscovery
from dynamo._core.errors import ConfigError, Overloaded
from dynamo._core.request_plane.inproc import InprocPlane
from dynamo._core.work_queue import work_queue_url_from_env
from dynamo.runtime import (
    CannotConnect,
    DistributedRuntime,
    DynamoError,
    Job,
    NoInstances,
    QueueLimits,
    WorkQueue,
)

DEADLINE_S = 60.0
HASTY = QueueLimits(jobs_max=2, visibility_s=0.5, attempts_max=2)


class Prefill(msgspec.Struct):
    request_id: str
    token_ids: list[int]


class PrefillModel(BaseModel):
    request_id: str
    token_ids: list[int]


PREFILL = Prefill("r1", [1, 2, 3])

OpenRuntime = Callable[[], Awaitable[DistributedRuntime]]


@pytest.fixture(params=["embedded", "nats"])
async def open_runtime(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OpenRuntime]:
    """Opens runtimes of one system."""
    async with AsyncExitStack() as stack:
        url = "embedded:"
        if request.param == "nats":
            url = (await stack.enter_async_context(nats_server(tmp_path))).url
        discovery, plane = MemoryDiscovery(), InprocPlane()

        async def open_one() -> DistributedRuntime:
            runtime = DistributedRuntime(discovery=discovery, request_plane=plane, work_queue=url)
            return await stack.enter_async_context(runtime)

        yield open_one


@pytest.fixture
async def runtime(open_runtime: OpenRuntime) -> DistributedRuntime:
    return await open_runtime()


async def take(queue: WorkQueue[object]) -> Job[object]:
    """Take the next job; there must be one."""
    job = await queue.dequeue(DEADLINE_S)
    assert job is not None
    return job


# On every queue


async def test_a_job_goes_from_one_process_to_another(open_runtime: OpenRuntime) -> None:
    serving, decode, prefill = await open_runtime(), await open_runtime(), await open_runtime()
    await serving.serve_work_queue("prefill")
    here, there = await decode.work_queue("prefill"), await prefill.work_queue("prefill", Prefill)
    await here.enqueue(PREFILL)
    assert await there.size() == 1
    job = await there.dequeue(DEADLINE_S)
    assert job is not None
    assert (job.payload, job.attempt) == (PREFILL, 1)
    await job.extend()
    await job.ack()
    assert await here.size() == 0
    assert await there.dequeue(0) is None


@pytest.mark.parametrize("payload", [None, "text", {"token_ids": [1, 2]}])
async def test_a_job_is_a_value_if_no_type_is_wanted(runtime: DistributedRuntime, payload: object) -> None:
    await runtime.serve_work_queue("prefill")
    queue = await runtime.work_queue("prefill")
    await queue.enqueue(payload)
    assert (await take(queue)).payload == payload


async def test_a_job_may_be_a_model(runtime: DistributedRuntime) -> None:
    await runtime.serve_work_queue("prefill")
    queue = await runtime.work_queue("prefill", PrefillModel)
    await queue.enqueue(PrefillModel(request_id="r1", token_ids=[1, 2, 3]))
    job = await queue.dequeue(DEADLINE_S)
    assert job is not None
    assert job.payload.token_ids == [1, 2, 3]


async def test_the_block_of_a_job_acknowledges_it_unless_it_raises(runtime: DistributedRuntime) -> None:
    await runtime.serve_work_queue("prefill")
    queue = await runtime.work_queue("prefill")
    await queue.enqueue("work")
    with pytest.raises(ZeroDivisionError):
        async with await take(queue):
            raise ZeroDivisionError
    assert await queue.size() == 1
    again = await take(queue)
    async with again:
        assert again.attempt == 2
    assert await queue.size() == 0


async def test_the_limits_are_those_of_who_serves_the_queue(open_runtime: OpenRuntime) -> None:
    serving, user = await open_runtime(), await open_runtime()
    await serving.serve_work_queue("prefill", HASTY)
    queue = await user.work_queue("prefill")
    await queue.enqueue(1)
    await queue.enqueue(2)
    with pytest.raises(Overloaded, match="full"):
        await queue.enqueue(3)
    assert await queue.dequeue(DEADLINE_S) is not None
    async with asyncio.timeout(DEADLINE_S):
        job = await take(queue)
        while job.payload != 1:  # until it is taken from whoever is too slow
            await job.ack()
            job = await take(queue)
    assert job.attempt == 2


async def test_a_job_that_cannot_be_read_is_told_of_and_given_up_and_the_others_are_done(
    runtime: DistributedRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    await runtime.serve_work_queue("prefill", QueueLimits(attempts_max=2))
    queue = await runtime.work_queue("prefill", Prefill)
    await queue.enqueue("no prefill")
    await queue.enqueue(PREFILL)
    payloads = set()
    async with asyncio.timeout(DEADLINE_S):
        while await queue.size():
            if (job := await queue.dequeue(0.2)) is not None:
                payloads.add(job.payload.request_id)
                await job.ack()
    assert payloads == {"r1"}
    assert caplog.text.count("a job of the work queue 'prefill' cannot be read") == 2


async def test_jobs_of_a_runtime_that_leaves_are_given_to_others(open_runtime: OpenRuntime) -> None:
    serving, leaving, staying = await open_runtime(), await open_runtime(), await open_runtime()
    await serving.serve_work_queue("prefill", QueueLimits(visibility_s=1.0))
    queue = await staying.work_queue("prefill")
    await queue.enqueue("work")
    await take(await leaving.work_queue("prefill"))
    await leaving.close()
    again = await take(queue)
    assert (again.payload, again.attempt) == ("work", 2)


async def test_what_is_closed_says_so(runtime: DistributedRuntime) -> None:
    await runtime.serve_work_queue("prefill")
    async with await runtime.work_queue("prefill") as queue:
        pass
    await queue.close()
    with pytest.raises(DynamoError, match="closed"):
        await queue.size()
    await runtime.close()
    with pytest.raises(DynamoError, match="closed"):
        await runtime.work_queue("prefill")


# The embedded queue


@pytest.fixture
async def alone() -> AsyncIterator[DistributedRuntime]:
    async with DistributedRuntime(discovery="memory:", request_plane="inproc:", work_queue="embedded:") as runtime:
        yield runtime


async def test_a_queue_is_there_as_long_as_it_is_served(alone: DistributedRuntime) -> None:
    queue = await alone.work_queue("prefill")
    with pytest.raises(NoInstances, match="'prefill'"):
        await queue.enqueue(1)
    for _ in range(2):
        async with await alone.serve_work_queue("prefill"):
            await queue.enqueue(1)
            with pytest.raises(DynamoError, match="served by another process"):
                await alone.serve_work_queue("prefill")
            assert await queue.size() == 1
    with pytest.raises(NoInstances, match="'prefill'"):
        await queue.dequeue(0.1)


async def test_queues_of_other_names_are_others(alone: DistributedRuntime) -> None:
    for name in ("prefill", "encode"):
        await alone.serve_work_queue(name)
    prefill, encode = await alone.work_queue("prefill"), await alone.work_queue("encode")
    await prefill.enqueue(1)
    assert (await prefill.size(), await encode.size()) == (1, 0)


# Settings


async def test_a_server_that_is_not_there_is_an_error_that_names_the_setting() -> None:
    url = "nats://us:hunter2@127.0.0.1:1"
    async with DistributedRuntime(discovery="memory:", request_plane="inproc:", work_queue=url) as runtime:
        for use in (runtime.work_queue("prefill"), runtime.serve_work_queue("prefill")):
            with pytest.raises(CannotConnect, match="work_queue: ") as raised:
                async with asyncio.timeout(DEADLINE_S):
                    await use
            assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("url", ["", "kafka://us:hunter2@h", "embedded://x", "nats:", "memory:"])
async def test_a_url_that_is_none_is_noticed_when_the_runtime_joins(url: str) -> None:
    with pytest.raises(ConfigError, match="work_queue=") as raised:
        async with DistributedRuntime(discovery="memory:", request_plane="inproc:", work_queue=url):
            pass
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({}, "embedded:"),
        ({"DYN_WORK_QUEUE": "embedded"}, "embedded:"),
        ({"DYN_WORK_QUEUE": "nats"}, "nats://127.0.0.1:4222"),
        ({"DYN_WORK_QUEUE": "nats", "NATS_SERVER": "tls://h"}, "tls://h"),
        ({"NATS_SERVER": "h:1"}, "nats://h:1"),
        ({"DYN_WORK_QUEUE": "embedded:", "NATS_SERVER": "h:1"}, "embedded:"),
    ],
)
def test_the_environment_names_the_url(environ: dict[str, str], url: str) -> None:
    assert work_queue_url_from_env(environ) == url

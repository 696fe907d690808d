"""Work queues on NATS when it is away, or has lost them, or does not want us."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from nats.aio.client import Client
from nats.js.api import ConsumerInfo
from nats.js.client import JetStreamContext
from nats.js.errors import ServiceUnavailableError
from tests.nats_server import nats_server

from dynamo._core.address import nats_stream
from dynamo._core.errors import CannotConnect, ConfigError, Disconnected, DynamoError, Overloaded
from dynamo._core.work_queue import QueueLimits
from dynamo._core.work_queue._nats_stream import NatsStream
from dynamo._core.work_queue.nats import NatsWorkQueue

DEADLINE_S = 60.0
PATIENT = QueueLimits(visibility_s=600.0)


async def test_jobs_outlive_a_nats_that_is_killed(tmp_path: Path) -> None:
    async with nats_server(tmp_path) as server, AsyncExitStack() as stack:
        queue = await NatsWorkQueue.connect(server.url, "prefill", QueueLimits(visibility_s=1.0), environ={})
        stack.push_async_callback(queue.close)
        await queue.enqueue(b"1")
        await queue.enqueue(b"2")
        taken = await queue.dequeue(DEADLINE_S)
        assert taken is not None
        await server.kill()
        with pytest.raises((CannotConnect, Disconnected)):
            await queue.enqueue(b"3")
        with pytest.raises(Disconnected):
            await taken.ack()
        with pytest.raises((CannotConnect, Disconnected)):
            await queue.dequeue(0)
        waiting = asyncio.create_task(queue.dequeue(DEADLINE_S))
        await server.start()
        job = await waiting
        done: set[bytes] = set()
        while job is not None:
            done.add(job.payload)
            await job.ack()  # at once: it comes again if that takes longer than its time
            job = await queue.dequeue(0 if len(done) == 2 else DEADLINE_S)
        assert done == {b"1", b"2"}
        assert await queue.size() == 0


async def test_who_adds_a_job_while_nats_is_away_is_told_that(tmp_path: Path) -> None:
    async with nats_server(tmp_path) as server, AsyncExitStack() as stack:
        queue = await NatsWorkQueue.connect(server.url, "prefill", environ={})
        stack.push_async_callback(queue.close)
        await server.kill()
        async with asyncio.timeout(DEADLINE_S):
            while queue._connection.client.is_connected:  # noqa: ASYNC110 - its client tells nobody else
                await asyncio.sleep(0.01)
            for ask in (lambda: queue.enqueue(b"1"), queue.size):
                with pytest.raises(CannotConnect, match="'prefill', is away; connecting to it again"):
                    await ask()


async def test_what_a_cancelled_consumer_would_have_got_comes_at_once_to_another(tmp_path: Path) -> None:
    async with nats_server(tmp_path) as server, AsyncExitStack() as stack:
        queue = await NatsWorkQueue.connect(server.url, "prefill", PATIENT, environ={})
        stack.push_async_callback(queue.close)
        waiting = asyncio.create_task(queue.dequeue(DEADLINE_S))
        await queue.size()
        waiting.cancel()
        await asyncio.wait([waiting])
        await queue.enqueue(b"work")
        job = await queue.dequeue(DEADLINE_S)
        assert job is not None
        assert job.payload == b"work"


async def test_nats_without_jetstream_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    async with nats_server(tmp_path, jetstream=False) as server:
        with pytest.raises(ConfigError, match="-js"):
            await NatsWorkQueue.connect(server.url, "prefill", environ={})


async def test_nats_that_is_not_there_is_an_error_that_names_the_setting() -> None:
    with pytest.raises(CannotConnect, match="DYN_WORK_QUEUE"):
        await NatsWorkQueue.connect("nats://127.0.0.1:1", "prefill", environ={})


async def test_two_names_that_nats_cannot_tell_apart_are_refused(tmp_path: Path) -> None:
    async with nats_server(tmp_path) as server, AsyncExitStack() as stack:
        for _ in range(2):
            queue = await NatsWorkQueue.connect(server.url, "meta/llama-3.1", environ={})
            stack.push_async_callback(queue.close)
        with pytest.raises(ConfigError, match="rename"):
            await NatsWorkQueue.connect(server.url, "meta_llama-3.1", environ={})


async def test_a_queue_that_nats_has_lost_is_made_anew(tmp_path: Path) -> None:
    async with nats_server(tmp_path / "nats") as server:
        queue = await NatsWorkQueue.connect(server.url, "prefill", QueueLimits(jobs_max=2), environ={})
        await queue.enqueue(b"lost")
        waiting = asyncio.create_task(queue.dequeue(30))
        assert await waiting is not None
        waiting = asyncio.create_task(queue.dequeue(30))
        await server.kill()
        shutil.rmtree(tmp_path / "nats")
        await server.start()
        async with asyncio.timeout(DEADLINE_S):
            while True:
                try:
                    await queue.enqueue(b"work")
                    break
                except (CannotConnect, Disconnected):
                    await asyncio.sleep(0.05)
        job = await waiting
        assert job is not None
        assert (job.payload, job.attempt) == (b"work", 1)
        await job.ack()
        assert await queue.size() == 0
        for _ in range(2):
            await queue.enqueue(b"")
        with pytest.raises(Overloaded, match="at most 2"):
            await queue.enqueue(b"")
        await queue.close()


async def test_a_queue_closes_although_nats_answers_at_that_moment(tmp_path: Path) -> None:
    """Python 3.11 forgets that a task was cancelled if what it waits for comes in the same turn of the loop."""
    async with nats_server(tmp_path) as server, asyncio.timeout(DEADLINE_S):
        queue = await NatsWorkQueue.connect(server.url, "prefill", QueueLimits(), environ={})
        answers = queue._connection.client._resp_map
        while not answers:  # noqa: ASYNC110 - a turn of the loop at a time
            await asyncio.sleep(0)
        [answer] = answers.values()
        while not answer.done():  # noqa: ASYNC110
            await asyncio.sleep(0)
        await queue.close()


async def test_a_queue_that_nats_has_lost_is_made_anew_by_whoever_provides_it_with_its_limits(tmp_path: Path) -> None:
    stream, _ = nats_stream("prefill")
    async with nats_server(tmp_path) as server, AsyncExitStack() as stack:
        first = await NatsWorkQueue.connect(server.url, "prefill", QueueLimits(jobs_max=7), environ={})
        user = await NatsWorkQueue.connect(server.url, "prefill", environ={})  # which takes the limits of the first
        await first.close()
        stack.push_async_callback(user.close)
        administrator = Client()
        stack.push_async_callback(administrator.close)
        await administrator.connect(server.url)
        await administrator.jetstream().delete_stream(stream)
        with pytest.raises(Disconnected, match="NATS has lost it"):
            await user.enqueue(b"work")
        second = await NatsWorkQueue.connect(server.url, "prefill", QueueLimits(jobs_max=9), environ={})
        stack.push_async_callback(second.close)
        await administrator.jetstream().delete_stream(stream)
        async with asyncio.timeout(DEADLINE_S):
            while True:
                try:
                    await user.enqueue(b"work")
                    break
                except Disconnected:
                    await asyncio.sleep(0.05)
        assert await user.dequeue(DEADLINE_S) is not None
        assert (await administrator.jetstream().stream_info(stream)).config.max_msgs == 9


class Busy(JetStreamContext):
    """A JetStream that cannot tell of its consumers just now."""

    async def consumer_info(self, stream: str, consumer: str, timeout: float | None = None) -> ConsumerInfo:
        raise ServiceUnavailableError(code=503, err_code=10008, description="temporarily unavailable")


async def test_limits_that_cannot_be_read_now_are_not_replaced(tmp_path: Path) -> None:
    stream, _ = nats_stream("prefill")
    async with nats_server(tmp_path) as server, AsyncExitStack() as stack:
        queue = await NatsWorkQueue.connect(server.url, "prefill", QueueLimits(jobs_max=7), environ={})
        stack.push_async_callback(queue.close)
        client = Client()
        stack.push_async_callback(client.close)
        await client.connect(server.url)
        with pytest.raises(ConfigError, match=r"DYN_WORK_QUEUE.*temporarily unavailable"):
            await NatsStream(lambda: Busy(client), "prefill", None, "DYN_WORK_QUEUE").open()
        assert (await client.jetstream().stream_info(stream)).config.max_msgs == 7


async def test_who_opens_a_queue_without_limits_keeps_those_that_it_has(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with nats_server(tmp_path) as server:
        limits = QueueLimits(jobs_max=2, visibility_s=0.5, attempts_max=1)
        first = await NatsWorkQueue.connect(server.url, "prefill", limits, environ={})
        second = await NatsWorkQueue.connect(server.url, "prefill", environ={})
        await second.enqueue(b"poison")
        await second.enqueue(b"")
        with pytest.raises(Overloaded, match="at most 2"):
            await second.enqueue(b"")
        job = await second.dequeue(DEADLINE_S)
        assert job is not None
        await job.nack()
        again = await second.dequeue(DEADLINE_S)
        assert again is not None
        assert again.payload == b""
        assert await second.dequeue(0) is None
        assert "a job was given out 1 times and never acknowledged; it is given up" in caplog.text
        await first.close()
        await second.close()


async def test_a_queue_that_exists_takes_the_limits_of_who_opens_it_last(tmp_path: Path) -> None:
    async with nats_server(tmp_path) as server, AsyncExitStack() as stack:
        for limits in (QueueLimits(), QueueLimits(jobs_max=2, visibility_s=1.0)):
            queue = await NatsWorkQueue.connect(server.url, "prefill", limits, environ={})
            stack.push_async_callback(queue.close)
        await queue.enqueue(b"")
        await queue.enqueue(b"")
        with pytest.raises(DynamoError, match="full"):
            await queue.enqueue(b"")

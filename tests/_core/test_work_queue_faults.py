"""Embedded work queues when a consumer, a server, or somebody else misbehaves."""

from __future__ import annotations

import asyncio
import logging
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

from dynamo._core.address import work_queue_key
from dynamo._core.context import Context
from dynamo._core.discovery.file import FileDiscovery
from dynamo._core.discovery.memory import MemoryDiscovery
from dynamo._core.errors import (
    CannotConnect,
    Disconnected,
    DynamoError,
    InvalidArgument,
    NoInstances,
    ProtocolError,
    WorkerUnavailable,
)
from dynamo._core.limits import WORK_QUEUE_HOLDS_MAX
from dynamo._core.request_plane import Address
from dynamo._core.request_plane._stream import ItemStream
from dynamo._core.request_plane.inproc import InprocPlane
from dynamo._core.request_plane.tcp import TcpPlane
from dynamo._core.work_queue import QueueLimits
from dynamo._core.work_queue.embedded import EmbeddedWorkQueue, ServedQueue, serve_work_queue
from dynamo._core.work_queue.nats import NatsWorkQueue

DEADLINE_S = 60.0
PATIENT = QueueLimits(visibility_s=600.0)


class World:
    """One discovery, and planes that are closed at the end."""

    def __init__(self) -> None:
        self.discovery = MemoryDiscovery()
        self.stack = AsyncExitStack()

    def plane(self) -> TcpPlane:
        plane = TcpPlane()
        self.stack.push_async_callback(plane.close)
        return plane

    async def serve(self, limits: QueueLimits = PATIENT) -> ServedQueue:
        return await serve_work_queue("prefill", self.plane(), self.discovery, await self.discovery.grant(), limits)

    def client(self, plane: TcpPlane | None = None) -> EmbeddedWorkQueue:
        queue = EmbeddedWorkQueue("prefill", plane or self.plane(), self.discovery)
        self.stack.push_async_callback(queue.close)
        return queue


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    async with world.stack:
        yield world


# The embedded queue


async def test_the_job_of_a_consumer_that_is_killed_comes_again_at_once(tmp_path: Path, world: World) -> None:
    discovery = FileDiscovery(tmp_path)
    plane = world.plane()
    served = await serve_work_queue("prefill", plane, discovery, await discovery.grant(), PATIENT)
    staying = EmbeddedWorkQueue("prefill", plane, discovery)
    await staying.enqueue(b"work")
    script = Path(__file__).parent / "queue_consumer.py"
    process = await asyncio.create_subprocess_exec(sys.executable, str(script), str(tmp_path), stdout=PIPE)
    assert process.stdout is not None
    async with asyncio.timeout(DEADLINE_S):
        assert await process.stdout.readline() == b"work\n"
    assert await staying.dequeue(0) is None
    process.kill()
    await process.wait()
    job = await staying.dequeue(DEADLINE_S)
    assert job is not None
    assert (job.payload, job.attempt) == (b"work", 2)
    await staying.close()
    await served.close()
    await discovery.close()


async def test_the_jobs_of_a_consumer_that_closes_come_again_at_once(world: World) -> None:
    served = await world.serve()
    leaving, staying = world.client(), world.client()
    for number in range(3):
        await staying.enqueue(b"%d" % number)
    taken = [await leaving.dequeue(DEADLINE_S) for _ in range(3)]
    assert None not in taken
    assert await staying.dequeue(0) is None
    await leaving.close()
    again = [await staying.dequeue(DEADLINE_S) for _ in range(3)]
    assert sorted(job.payload for job in again if job is not None) == [b"0", b"1", b"2"]
    await served.close()


async def test_a_consumer_that_dies_while_it_waits_takes_no_job_with_it(world: World) -> None:
    served = await world.serve()
    plane = world.plane()
    waiting = asyncio.create_task(world.client(plane).dequeue(600))
    staying = world.client()
    await staying.size()
    await plane.close()
    async with asyncio.timeout(DEADLINE_S):  # there is nothing to wait for any more
        with pytest.raises(DynamoError, match="plane is closed"):
            await waiting
    await staying.enqueue(b"work")
    job = await staying.dequeue(DEADLINE_S)
    assert job is not None
    assert job.payload == b"work"
    await served.close()


async def test_a_queue_that_nobody_serves_is_an_error_that_names_it(world: World) -> None:
    client = world.client()
    for operation in (client.enqueue(b""), client.dequeue(1), client.size()):
        with pytest.raises(NoInstances, match="'prefill'"):
            await operation


async def test_when_the_queue_is_lost_so_is_the_job_and_its_consumer_is_told(world: World) -> None:
    served = await world.serve()
    client = world.client()
    await client.enqueue(b"work")
    job = await client.dequeue(DEADLINE_S)
    assert job is not None
    await served.close()
    await served.close()
    with pytest.raises((CannotConnect, Disconnected, WorkerUnavailable)):
        await job.ack()
    with pytest.raises(DynamoError):
        await client.dequeue(0.2)


async def test_a_consumer_may_wait_before_anybody_serves_the_queue(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    client = world.client()
    waiting = asyncio.create_task(client.dequeue(30))
    async with asyncio.timeout(DEADLINE_S):
        while "waiting for somebody to serve the work queue 'prefill'" not in caplog.text:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    served = await world.serve()
    await world.client().enqueue(b"work")
    job = await waiting
    assert job is not None
    assert job.payload == b"work"
    await served.close()


async def test_a_consumer_that_waits_outlives_who_serves_the_queue(world: World) -> None:
    served = await world.serve()
    client = world.client()
    waiting = asyncio.create_task(client.dequeue(30))
    await client.size()
    await served.close()
    again = await world.serve()
    await world.client().enqueue(b"work")
    job = await waiting
    assert job is not None
    assert job.payload == b"work"
    await again.close()


async def test_who_ends_does_not_unregister_who_serves_the_queue_now(world: World) -> None:
    lost = await world.discovery.grant()
    served = await serve_work_queue("prefill", world.plane(), world.discovery, lost, PATIENT)
    world.discovery.expire(lost)
    again = await world.serve()
    await served.close()
    await world.client().enqueue(b"work")
    assert await world.client().size() == 1
    await again.close()


async def test_a_queue_that_moves_to_another_process_is_found_there(world: World) -> None:
    client = world.client()
    served = await world.serve()
    await client.enqueue(b"lost")
    old = await client.dequeue(DEADLINE_S)
    assert old is not None
    await served.close()
    again = await world.serve()
    await client.enqueue(b"kept")
    assert await client.size() == 1
    with pytest.raises((CannotConnect, Disconnected, WorkerUnavailable)):
        await old.ack()  # and it does not end a job of the new queue
    assert await client.size() == 1
    await again.close()


async def test_a_queue_is_served_once(world: World) -> None:
    served = await world.serve()
    with pytest.raises(DynamoError, match=r"another process.*If it has died, its claim ends by itself within 10 s"):
        await world.serve()
    await served.close()
    await (await world.serve()).close()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"",
        b"\xc1",
        b"\x80",
        b"\x91" * 5000,
        msgspec.msgpack.encode({"what": "drop"}),
        msgspec.msgpack.encode({"what": "ack", "id": "x"}),
        msgspec.msgpack.encode({"what": "enqueue", "payload": 1}),
    ],
)
async def test_a_hostile_request_is_refused(world: World, request_bytes: bytes) -> None:
    served = await world.serve()
    address = (await world.discovery.get_prefix(work_queue_key("prefill"))).popitem()[1].decode()
    stream = await world.plane().call(address, request_bytes, Context())
    with pytest.raises(InvalidArgument, match="work queue"):
        await anext(stream)
    await world.client().enqueue(b"fine")
    await served.close()


@pytest.mark.parametrize("timeout_s", [float("nan"), float("-inf"), -1.0, 1e300])
async def test_a_hostile_time_to_wait_is_refused_or_cut(world: World, timeout_s: float) -> None:
    served = await world.serve()
    address = (await world.discovery.get_prefix(work_queue_key("prefill"))).popitem()[1].decode()
    request = msgspec.msgpack.encode({"what": "dequeue", "timeout_s": timeout_s})
    stream = await world.plane().call(address, request, Context())
    if timeout_s == 1e300:
        await world.client().enqueue(b"work")
        assert b"work" in await anext(stream)
        await stream.aclose()
    else:
        with pytest.raises(InvalidArgument):
            await anext(stream)
    await served.close()


async def test_what_only_looks_like_a_queue_is_an_error(world: World) -> None:
    async def nonsense(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield b"nonsense"

    async def nothing(request: bytes, context: Context) -> AsyncIterator[bytes]:
        return
        yield b""

    for handler in (nonsense, nothing):
        listener = await world.plane().listen(handler)
        await world.discovery.put(work_queue_key("prefill"), listener.address.encode())
        with pytest.raises(ProtocolError, match="'prefill'"):
            await world.client().size()


async def test_the_embedded_queue_needs_no_sockets() -> None:
    plane, discovery = InprocPlane(), MemoryDiscovery()
    served = await serve_work_queue("q", plane, discovery, await discovery.grant())
    queue = EmbeddedWorkQueue("q", plane, discovery)
    await queue.enqueue(b"work")
    job = await queue.dequeue(DEADLINE_S)
    assert job is not None
    await job.ack()
    assert await queue.size() == 0
    await queue.close()
    await served.close()
    await plane.close()


async def test_jobs_that_their_consumer_has_forgotten_keep_it_from_no_others(caplog: pytest.LogCaptureFixture) -> None:
    plane, discovery = InprocPlane(), MemoryDiscovery()
    hasty = QueueLimits(visibility_s=0.001, attempts_max=1)
    served = await serve_work_queue("q", plane, discovery, await discovery.grant(), hasty)
    queue = EmbeddedWorkQueue("q", plane, discovery)
    with caplog.at_level(logging.CRITICAL):
        for _ in range(WORK_QUEUE_HOLDS_MAX + 1):
            await queue.enqueue(b"forgotten")
            assert await queue.dequeue(DEADLINE_S) is not None
    await queue.close()
    await served.close()
    await plane.close()


class Deaf(InprocPlane):
    """A plane that loses each acknowledgement."""

    async def call(self, to: Address, request: bytes, context: Context) -> ItemStream:
        if msgspec.msgpack.decode(request)["what"] == "ack":
            raise Disconnected("the acknowledgement was lost")
        return await super().call(to, request, context)


async def test_a_job_whose_acknowledgement_was_lost_comes_again_at_once() -> None:
    plane, discovery = Deaf(), MemoryDiscovery()
    served = await serve_work_queue("q", plane, discovery, await discovery.grant(), PATIENT)
    queue = EmbeddedWorkQueue("q", plane, discovery)
    await queue.enqueue(b"work")
    job = await queue.dequeue(DEADLINE_S)
    assert job is not None
    with pytest.raises(Disconnected):
        await job.ack()
    again = await queue.dequeue(DEADLINE_S)
    assert again is not None
    assert (again.payload, again.attempt) == (b"work", 2)
    await queue.close()
    await served.close()
    await plane.close()


async def test_the_jobs_that_a_queue_takes_with_it_are_told_of_once(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    served = await world.serve()
    client = world.client()
    for _ in range(2):
        await client.enqueue(b"work")
    await served.close()
    await served.close()
    assert caplog.text.count("the work queue 'prefill' has ended; jobs that are lost with it: 2") == 1


# Names


@pytest.mark.parametrize("name", ["", "a b", "a\\b", "*", ">", "..", "a\n", "ключ", "x" * 300])
async def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="work queue"):
        await NatsWorkQueue.connect("nats://127.0.0.1:1", name, environ={})
    with pytest.raises(InvalidArgument, match="work queue"):
        EmbeddedWorkQueue(name, InprocPlane(), MemoryDiscovery())

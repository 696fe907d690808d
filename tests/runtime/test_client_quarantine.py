"""What becomes of instances that were at fault, as a client sees them come, change and leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
from tests.runtime.test_client_retries import DEADLINE_S, World, gone, items, well
from tests.sim.loop import run
from tests.virtual_time import in_virtual_time

from dynamo._core.context import Context
from dynamo._core.request_plane._stream import ItemStream
from dynamo._core.request_plane.inproc import InprocPlane
from dynamo.runtime import (
    Annotated,
    CannotConnect,
    Client,
    Disconnected,
    DistributedRuntime,
    HandlerError,
    ResponseStream,
    StreamTimeouts,
)
from dynamo.runtime._instances import InstanceRecord
from dynamo.runtime._quarantine import PROBE_AFTER_S, Fault
from dynamo.runtime._retry_budget import RETRIES_MIN

GHOST = 77


class Unsure(InprocPlane):
    """A way to the same handlers; that the ghost cannot be reached is known only when it is told."""

    def __init__(self, plane: InprocPlane) -> None:
        super().__init__()
        self._plane = plane
        self.asked, self.tell = asyncio.Event(), asyncio.Event()
        self.streams: list[ItemStream] = []

    async def call(self, to: str, request: bytes, context: Context) -> ItemStream:
        if "ghost" in to:
            self.asked.set()
            await self.tell.wait()
        self.streams.append(await self._plane.call(to, request, context))
        return self.streams[-1]


Setting = tuple[World, Unsure, Client, DistributedRuntime]


@asynccontextmanager
async def unsure() -> AsyncIterator[Setting]:
    async with asyncio.timeout(DEADLINE_S), World() as world:
        plane = Unsure(world.plane)
        async with DistributedRuntime(discovery=world.discovery, request_plane=plane) as runtime:
            await world.add_ghost(GHOST)
            client = await runtime.endpoint("ns.comp.ep").client()
            await client.wait_for_instances()
            yield world, plane, client, runtime


@in_virtual_time(unsure)
async def test_an_instance_that_has_left_before_its_fault_is_known_is_forgotten(setting: Setting) -> None:
    world, plane, client, runtime = setting
    call = asyncio.ensure_future(client.direct("x", GHOST))
    await plane.asked.wait()
    await world.discovery.delete(client.endpoint.instance_key(GHOST))
    await client.wait_for_change()
    plane.tell.set()
    with pytest.raises(CannotConnect):
        await call
    called = runtime.measure_calls(client.endpoint)
    assert (called.out, sum(called.quarantined.values())) == (0, 0)


@in_virtual_time(unsure)
async def test_an_instance_that_is_elsewhere_now_is_not_blamed_for_where_it_was(setting: Setting) -> None:
    world, plane, client, _ = setting
    call = asyncio.ensure_future(client.direct("x", GHOST))
    await plane.asked.wait()
    record = InstanceRecord("ns", "comp", "ep", GHOST, {"inproc": "inproc://elsewhere"})
    await world.discovery.put(client.endpoint.instance_key(GHOST), msgspec.json.encode(record))
    await client.wait_for_change()
    plane.tell.set()
    with pytest.raises(CannotConnect):
        await call
    assert not client.is_passed_over(GHOST)


@in_virtual_time(unsure)
async def test_an_instance_that_comes_back_elsewhere_is_tried_at_once(setting: Setting) -> None:
    world, plane, client, _ = setting
    plane.tell.set()
    with pytest.raises(CannotConnect):
        await client.direct("x", GHOST)
    assert client.is_passed_over(GHOST)
    record = InstanceRecord("ns", "comp", "ep", GHOST, {"inproc": "inproc://elsewhere"})
    await world.discovery.put(client.endpoint.instance_key(GHOST), msgspec.json.encode(record))
    await client.wait_for_change()
    assert not client.is_passed_over(GHOST)


@in_virtual_time(unsure)
async def test_a_loss_that_is_read_after_the_instance_has_left_leaves_nothing_behind(setting: Setting) -> None:
    world, plane, client, runtime = setting
    over = asyncio.Event()

    async def lost(request: object) -> AsyncIterator[object]:
        yield "first"
        await over.wait()

    worker = await world.add(lost)
    await client.wait_for_instances(2)
    stream = await client.direct("x", worker, annotated=False)
    assert await anext(stream) == "first"
    await world.discovery.delete(client.endpoint.instance_key(worker))
    await client.wait_for_change()
    plane.streams[-1].fail(Disconnected("the worker was lost"))
    with pytest.raises(Disconnected):
        await anext(stream)
    assert runtime.measure_calls(client.endpoint).out == 0
    over.set()


@in_virtual_time(unsure)
async def test_a_loss_counts_when_it_happens_and_not_when_somebody_reads_of_it(setting: Setting) -> None:
    world, plane, _, runtime = setting
    over = asyncio.Event()

    async def lost(request: object) -> AsyncIterator[object]:
        yield "first"
        await over.wait()

    worker = await world.add(lost)
    client = await runtime.endpoint("ns.comp.ep").client(timeouts=StreamTimeouts(first_item_s=0.5))
    await client.wait_for_instances(2)
    stream = await client.direct("x", worker, annotated=False)
    assert await anext(stream) == "first"
    plane.streams[-1].fail(Disconnected("the worker was lost"))
    while not client.is_passed_over(worker):  # noqa: ASYNC110 - nobody is told, and so nothing tells of it
        await asyncio.sleep(0.01)
    async with await client.direct("x", worker, annotated=False) as again:
        assert await anext(again) == "first"
        assert not client.is_passed_over(worker)
        with pytest.raises(Disconnected):
            await anext(stream)
        assert not client.is_passed_over(worker), "that is long ago, and it has answered since"
    assert runtime.measure_calls(client.endpoint).quarantined[Fault.LOST] == 1
    over.set()


@pytest.mark.parametrize("answer", ["ok", HandlerError])
def test_after_a_probe_that_is_answered_when_there_was_a_newer_fault_the_next_request_is_one(answer: object) -> None:
    async def story(loop: asyncio.AbstractEventLoop) -> None:
        async def serve(request: object) -> AsyncIterator[object]:
            if request == "hang":
                await asyncio.Event().wait()
            elif request == "fail":
                raise ValueError("no")
            yield request

        async with World() as world:
            plane = Unsure(world.plane)
            async with DistributedRuntime(discovery=world.discovery, request_plane=plane) as runtime:
                id, _ = await world.add(serve), await world.add(serve)
                client = await runtime.endpoint("ns.comp.ep").client()
                await client.wait_for_instances(2)

                async def lose(stream: ResponseStream[Annotated], at: int) -> None:
                    plane.streams[at].fail(Disconnected("the connection was lost"))
                    with pytest.raises(Disconnected):
                        await anext(stream)

                olds = [await client.direct("hang", id) for _ in range(2)]
                await lose(olds[0], 0)
                await asyncio.sleep(PROBE_AFTER_S)
                probe = await client.direct("fail" if answer is HandlerError else answer, id)
                await lose(olds[1], 1)
                if answer is HandlerError:
                    with pytest.raises(HandlerError):
                        await anext(probe)
                else:
                    await anext(probe)
                assert client.is_passed_over(id), "the answer is older than the last fault"
                for _ in range(2):
                    await anext(await client.round_robin("x"))
                assert not client.is_passed_over(id)

    run(story, 1)


@in_virtual_time(World)
async def test_a_crowd_that_meets_an_instance_about_to_leave_is_served_by_the_others(world: World) -> None:
    """As when all workers are restarted one by one: saying that is no load, so it needs no budget."""
    await world.add(gone)
    good = await world.add(well)
    client = await world.client(2)
    crowd = 6 * RETRIES_MIN
    assert await asyncio.gather(*(items(client) for _ in range(crowd))) == [["first", "second"]] * crowd
    assert world.begun[good] == crowd

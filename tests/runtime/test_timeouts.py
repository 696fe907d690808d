"""How long a caller waits for items: a stream that gives none is given up, and a slow one is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest
from tests.virtual_time import in_virtual_time

from dynamo._core.discovery.memory import MemoryDiscovery
from dynamo._core.request_plane.inproc import InprocPlane
from dynamo.runtime import Client, Disconnected, DistributedRuntime, Stalled, StreamTimeouts
from dynamo.runtime._measured import StallPhase
from dynamo.runtime._timeouts import timeouts_from_env

DEADLINE_S = 60.0
LIMIT_S = 0.2
BRIEF = StreamTimeouts(first_item_s=LIMIT_S, inter_item_s=LIMIT_S)


class Engine:
    """Answers a number of items, each after it was let go, and then hangs."""

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()
        self.steps: asyncio.Queue[None] = asyncio.Queue()

    async def serve(self, request: object) -> AsyncIterator[object]:
        if request == "quick":
            yield 0
            return
        try:
            for number in range(1 << 30):
                await self.steps.get()
                yield number
        finally:
            self.cancelled.set()

    def go(self) -> None:
        self.steps.put_nowait(None)


class World:
    """Two instances of an endpoint, each with its engine, and a client with little patience."""

    def __init__(self) -> None:
        self.engines: dict[int, Engine] = {}

    async def add(self, runtime: DistributedRuntime) -> None:
        engine = self.engines[runtime.lease.id] = Engine()
        await runtime.endpoint("ns.comp.ep").serve(engine.serve)


Setting = tuple[Client, World, DistributedRuntime]


@asynccontextmanager
async def two_instances() -> AsyncIterator[Setting]:
    discovery, plane, world = MemoryDiscovery(), InprocPlane(), World()
    async with (
        asyncio.timeout(DEADLINE_S),
        DistributedRuntime(discovery=discovery, request_plane=plane) as first,
        DistributedRuntime(discovery=discovery, request_plane=plane) as second,
    ):
        for runtime in (first, second):
            await world.add(runtime)
        client = await first.endpoint("ns.comp.ep").client(timeouts=BRIEF)
        await client.wait_for_instances(2)
        yield client, world, first


@pytest.mark.parametrize("batched", [True, False])
@in_virtual_time(two_instances)
async def test_a_stream_without_a_first_item_is_given_up_and_its_handler_cancelled(
    world: Setting, batched: bool
) -> None:
    client, served, runtime = world
    id = client.instance_ids()[0]
    stream = await client.direct("x", id, annotated=False)
    with pytest.raises(Stalled, match=rf"instance {id:x} of ns/comp/ep did not send a first item within {LIMIT_S:g} s"):
        await (stream.batch() if batched else anext(stream))
    await served.engines[id].cancelled.wait()
    assert [item async for item in stream] == []
    assert runtime.measure_calls(client.endpoint).stalls == {StallPhase.FIRST_ITEM: 1, StallPhase.INTER_ITEM: 0}


@pytest.mark.parametrize("batched", [True, False])
@in_virtual_time(two_instances)
async def test_a_stream_whose_next_item_takes_too_long_is_given_up(world: Setting, batched: bool) -> None:
    client, served, runtime = world
    id = client.instance_ids()[0]
    stream = await client.direct("x", id, annotated=False)
    served.engines[id].go()
    assert await anext(stream) == 0
    with pytest.raises(Stalled, match="did not send another item"):
        await (stream.batch() if batched else anext(stream))
    await served.engines[id].cancelled.wait()
    assert runtime.measure_calls(client.endpoint).stalls[StallPhase.INTER_ITEM] == 1


async def test_a_stall_is_a_loss_to_those_who_know_no_better() -> None:
    assert issubclass(Stalled, Disconnected)


@in_virtual_time(two_instances)
async def test_a_slow_stream_is_not_given_up(world: Setting) -> None:
    client, served, _ = world
    id = client.instance_ids()[0]
    stream = await client.direct("x", id, annotated=False)
    loop = asyncio.get_running_loop()
    begun_at, got = loop.time(), 0
    while loop.time() - begun_at < 4 * LIMIT_S:
        loop.call_later(LIMIT_S / 4, served.engines[id].go)
        assert await anext(stream) == got
        got += 1


@in_virtual_time(two_instances)
async def test_a_reader_that_takes_its_time_loses_nothing(world: Setting) -> None:
    client, served, _ = world
    id = client.instance_ids()[0]
    stream = await client.direct("x", id, annotated=False)
    served.engines[id].go()
    assert await anext(stream) == 0
    read_again = asyncio.Event()
    asyncio.get_running_loop().call_later(3 * LIMIT_S, read_again.set)
    await read_again.wait()
    served.engines[id].go()
    assert await anext(stream) == 1


@in_virtual_time(two_instances)
async def test_an_instance_that_gives_nobody_an_item_is_passed_over_until_it_answers(world: Setting) -> None:
    client, _, _ = world
    id = client.instance_ids()[0]
    with pytest.raises(Stalled):
        await (await client.direct("x", id)).batch()
    assert client.is_passed_over(id)
    for _ in range(2):
        assert (await client.round_robin("quick")).instance_id != id
    assert await anext(await client.direct("quick", id, annotated=False)) == 0
    assert not client.is_passed_over(id)


@in_virtual_time(two_instances)
async def test_an_instance_that_gives_others_their_items_is_slow_and_not_stuck(world: Setting) -> None:
    client, _, _ = world
    id = client.instance_ids()[0]

    async def busy() -> None:
        while True:
            assert await anext(await client.direct("quick", id, annotated=False)) == 0
            await asyncio.sleep(LIMIT_S / 20)

    others = asyncio.create_task(busy())
    with pytest.raises(Stalled):
        await (await client.direct("x", id)).batch()
    others.cancel()
    assert not client.is_passed_over(id)


@in_virtual_time(two_instances)
async def test_without_limits_a_stream_waits(world: Setting) -> None:
    _, served, runtime = world
    client = await runtime.endpoint("ns.comp.ep").client(timeouts=StreamTimeouts(None, None))
    id = client.instance_ids()[0]
    stream = await client.direct("x", id, annotated=False)
    asyncio.get_running_loop().call_later(3 * LIMIT_S, served.engines[id].go)
    assert await anext(stream) == 0


async def test_a_blocked_loop_is_no_stall_of_anybody_else() -> None:
    async with two_instances() as (client, served, _):
        id = client.instance_ids()[0]
        stream = await client.direct("x", id, annotated=False)
        reading = asyncio.ensure_future(anext(stream))
        loop = asyncio.get_running_loop()
        await asyncio.sleep(LIMIT_S / 4)
        served.engines[id].go()
        blocked_until = loop.time() + 2 * LIMIT_S
        while loop.time() < blocked_until:  # as a handler would that computes for long
            pass
        assert await reading == 0
        await stream.aclose()


@in_virtual_time(two_instances)
async def test_streams_that_end_or_are_left_are_not_looked_after(world: Setting) -> None:
    client, _, _ = world
    stream = await client.generate("quick")
    assert [item.data() async for item in stream] == [0]
    left = await client.generate("x")
    await left.aclose()
    dropped = await client.generate("x")
    del dropped
    await asyncio.sleep(0)
    assert len(client._caller.watch) == 0


@pytest.mark.parametrize(
    ("environment", "timeouts"),
    [
        ({}, StreamTimeouts(120.0, 30.0)),
        ({"DYN_FIRST_ITEM_TIMEOUT_S": "5"}, StreamTimeouts(5.0, 30.0)),
        ({"DYN_FIRST_ITEM_TIMEOUT_S": "", "DYN_INTER_ITEM_TIMEOUT_S": "0"}, StreamTimeouts(120.0, None)),
    ],
)
def test_the_variables_say_how_long(environment: Mapping[str, str], timeouts: StreamTimeouts) -> None:
    assert timeouts_from_env(environment) == timeouts


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf"])
def test_a_wrong_variable_is_named(text: str) -> None:
    with pytest.raises(Exception, match=f"DYN_INTER_ITEM_TIMEOUT_S='{text}'"):
        timeouts_from_env({"DYN_INTER_ITEM_TIMEOUT_S": text})


@pytest.mark.parametrize("limit_s", [0.0, -1.0, float("nan"), float("inf")])
def test_a_limit_that_is_none_is_refused(limit_s: float) -> None:
    with pytest.raises(Exception, match="first_item_s"):
        StreamTimeouts(first_item_s=limit_s)

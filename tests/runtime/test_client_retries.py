"""A request that nobody has begun goes elsewhere by itself, within limits; one that has begun never does."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Container
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Literal

import msgspec
import pytest
from tests.virtual_time import in_virtual_time

from dynamo._core.context import Context
from dynamo._core.discovery.memory import MemoryDiscovery
from dynamo._core.request_plane._stream import ItemStream
from dynamo._core.request_plane.inproc import InprocPlane
from dynamo.runtime import (
    Annotated,
    CannotConnect,
    Client,
    Disconnected,
    DistributedRuntime,
    DynamoError,
    HandlerError,
    NoInstances,
    Overloaded,
    ResponseStream,
    WorkerUnavailable,
)
from dynamo.runtime._call import CONNECT_ATTEMPTS
from dynamo.runtime._instances import InstanceRecord
from dynamo.runtime._retry_budget import RETRIES_MIN

DEADLINE_S = 60.0

Answer = Callable[[object], AsyncIterator[object]]
How = Literal["generate", "round_robin", "random"]


class World:
    """Several workers of one endpoint, and a client; each request that a worker begins is counted."""

    def __init__(self) -> None:
        self.discovery = MemoryDiscovery()
        self.plane = InprocPlane()
        self.runtimes: list[DistributedRuntime] = []
        self.begun: Counter[int] = Counter()
        self._exits = AsyncExitStack()

    async def __aenter__(self) -> World:
        self.caller = await self.join()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._exits.aclose()

    async def join(self) -> DistributedRuntime:
        runtime = DistributedRuntime(discovery=self.discovery, request_plane=self.plane)
        return await self._exits.enter_async_context(runtime)

    async def add(self, answer: Answer, path: str = "ns.comp.ep") -> int:
        runtime = await self.join()
        id = runtime.lease.id

        async def serve(request: object) -> AsyncIterator[object]:
            self.begun[id] += 1
            async for item in answer(request):
                yield item

        await runtime.endpoint(path).serve(serve)
        return id

    async def add_ghost(self, id: int) -> None:
        """Register an instance that nobody is behind."""
        endpoint = self.caller.endpoint("ns.comp.ep")
        record = InstanceRecord("ns", "comp", "ep", id, {"inproc": f"inproc://ghost-{id}"})
        await self.discovery.put(endpoint.id.instance_key(id), msgspec.json.encode(record))

    async def client(self, count: int) -> Client:
        client = await self.caller.endpoint("ns.comp.ep").client()
        await client.wait_for_instances(count, DEADLINE_S)
        return client


async def well(request: object) -> AsyncIterator[object]:
    yield "first"
    yield "second"


async def full(request: object) -> AsyncIterator[object]:
    raise Overloaded("no place here", retry_after_s=3.5)
    yield


async def gone(request: object) -> AsyncIterator[object]:
    raise WorkerUnavailable("not here any more")
    yield


async def items(client: Client, how: How = "round_robin", **options: object) -> list[object]:
    async with asyncio.timeout(DEADLINE_S):
        return [item async for item in await getattr(client, how)("x", annotated=False, **options)]


@pytest.mark.parametrize("how", ["generate", "round_robin", "random"])
@pytest.mark.parametrize("refuse", [full, gone])
@in_virtual_time(World)
async def test_a_request_that_is_refused_goes_to_another_instance(world: World, refuse: Answer, how: How) -> None:
    await world.add(refuse)
    good = await world.add(well)
    client = await world.client(2)
    for _ in range(5):
        assert await items(client, how) == ["first", "second"]
    assert world.begun[good] == 5


@in_virtual_time(World)
async def test_so_it_does_when_it_is_read_in_batches_and_the_stream_says_who_has_it(world: World) -> None:
    refused = await world.add(full)
    good = await world.add(well)
    client = await world.client(2)
    for _ in range(2):  # one of the two goes to the first instance first
        stream = await client.round_robin("x", annotated=False)
        got: list[object] = []
        while batch := await stream.batch():
            got += batch
        assert (got, stream.instance_id) == (["first", "second"], good)
    assert world.begun[refused] >= 1


@in_virtual_time(World)
async def test_a_request_that_was_overtaken_is_sent_on_only_so_often(world: World) -> None:
    for _ in range(CONNECT_ATTEMPTS + 2):
        await world.add(full)
    client = await world.client(CONNECT_ATTEMPTS + 2)
    with pytest.raises(Overloaded, match="no place here") as caught:
        await items(client)
    assert caught.value.retry_after_s == 3.5
    assert sum(world.begun.values()) == CONNECT_ATTEMPTS
    assert max(world.begun.values()) == 1


@in_virtual_time(World)
async def test_a_refusal_of_the_only_instance_is_the_answer(world: World) -> None:
    await world.add(full)
    client = await world.client(1)
    with pytest.raises(Overloaded):
        await items(client)
    assert sum(world.begun.values()) == 1


@in_virtual_time(World)
async def test_retries_are_a_tenth_of_the_requests(world: World) -> None:
    for _ in range(3):
        await world.add(full)
    client = await world.client(3)
    requests = 500
    for _ in range(requests):
        with pytest.raises(Overloaded):
            await items(client)
    assert sum(world.begun.values()) <= 1.1 * requests + RETRIES_MIN
    called = world.caller.measure_calls(client.endpoint)
    assert sum(called.retries.values()) == sum(world.begun.values()) - requests
    assert called.retries_denied > 0


@in_virtual_time(World)
async def test_a_request_that_has_begun_is_never_sent_again(world: World) -> None:
    async def breaks(request: object) -> AsyncIterator[object]:
        yield "first"
        raise Overloaded("full after all")

    await world.add(breaks)
    await world.add(breaks)
    client = await world.client(2)
    with pytest.raises(Overloaded):
        await items(client)
    assert sum(world.begun.values()) == 1


@pytest.mark.parametrize("error", [Disconnected("of another"), CannotConnect("to another"), DynamoError("no")])
@in_virtual_time(World)
async def test_an_error_that_does_not_say_that_it_has_not_begun_is_the_answer(world: World, error: DynamoError) -> None:
    async def fails(request: object) -> AsyncIterator[object]:
        raise error
        yield

    await world.add(fails)
    await world.add(well)
    client = await world.client(2)
    failures = []
    for _ in range(4):
        try:
            await items(client)
        except DynamoError as caught:
            failures.append(type(caught))
    assert failures == [type(error)] * 2


@in_virtual_time(World)
async def test_a_refusal_that_is_passed_on_is_an_answer_too(world: World) -> None:
    """The instance had begun: it had asked another one, which refused."""
    await world.add(full, "ns.behind.ep")
    inner = await world.caller.endpoint("ns.behind.ep").client()
    await inner.wait_for_instances()

    async def relay(request: object) -> AsyncIterator[object]:
        async for item in await inner.generate(request, annotated=False):
            yield item

    for _ in range(2):
        await world.add(relay)
    client = await world.client(2)
    with pytest.raises(Overloaded, match="no place here"):
        await items(client)
    assert sum(world.begun.values()) == 2  # one relay, and the one behind it


@in_virtual_time(World)
async def test_direct_obeys(world: World) -> None:
    refusing = await world.add(full)
    await world.add(well)
    client = await world.client(2)
    for _ in range(2):
        with pytest.raises(Overloaded):
            await anext(await client.direct("x", refusing))
    assert world.begun == {refusing: 2}


@in_virtual_time(World)
async def test_an_instance_that_takes_no_requests_is_passed_over(world: World) -> None:
    refusing = await world.add(gone)
    await world.add(well)
    client = await world.client(2)
    for _ in range(6):
        await items(client)
    assert client.is_passed_over(refusing)
    assert world.begun[refusing] == 1


@in_virtual_time(World)
async def test_an_instance_that_was_overloaded_is_not(world: World) -> None:
    refusing = await world.add(full)
    await world.add(well)
    client = await world.client(2)
    for _ in range(6):
        await items(client)
    assert not client.is_passed_over(refusing)
    assert world.begun[refusing] >= 3


@in_virtual_time(World)
async def test_an_error_of_the_connection_names_the_endpoint_and_the_instance(world: World) -> None:
    await world.add_ghost(77)
    client = await world.client(1)
    with pytest.raises(
        CannotConnect, match=r"instance 4d of ns/comp/ep cannot be reached: nothing listens at"
    ) as caught:
        await client.direct("x", 77)
    assert caught.value.details["instance_id"] == "77"
    with pytest.raises(CannotConnect, match="instance 4d"):
        await client.generate("x")


@in_virtual_time(World)
async def test_instances_that_cannot_be_reached_cost_no_request(world: World) -> None:
    for id in range(1, 2 + RETRIES_MIN):
        await world.add_ghost(id)
    good = await world.add(well)
    client = await world.client(2 + RETRIES_MIN)
    failures = 0
    for _ in range(60):
        try:
            await items(client)
        except CannotConnect:
            failures += 1
    # At first each request may meet as many of them as it is tried on; then they are passed over.
    assert failures <= (RETRIES_MIN + 1) / CONNECT_ATTEMPTS
    assert world.begun[good] == 60 - failures


class Halting(InprocPlane):
    """A way to the same handlers, on which the second call waits for leave."""

    def __init__(self, plane: InprocPlane) -> None:
        super().__init__()
        self._plane = plane
        self._calls = 0
        self.halted, self.go_on = asyncio.Event(), asyncio.Event()

    async def call(self, to: str, request: bytes, context: Context) -> ItemStream:
        self._calls += 1
        if self._calls == 2:
            self.halted.set()
            await self.go_on.wait()
        return await self._plane.call(to, request, context)


@asynccontextmanager
async def sent_on(
    world: World,
) -> AsyncIterator[tuple[Halting, ResponseStream[Annotated], asyncio.Future[list[Annotated]]]]:
    """A stream whose reader waits while its request, which was refused, is on its way to another instance."""
    for _ in range(2):
        await world.add(full)
    plane = Halting(world.plane)
    async with (
        asyncio.timeout(DEADLINE_S),
        DistributedRuntime(discovery=world.discovery, request_plane=plane) as runtime,
    ):
        client = await runtime.endpoint("ns.comp.ep").client()
        await client.wait_for_instances(2)
        stream = await client.generate("x")
        reading = asyncio.ensure_future(stream.batch())
        await plane.halted.wait()
        yield plane, stream, reading


@in_virtual_time(World)
async def test_a_stream_that_is_closed_while_it_is_sent_on_stays_closed(world: World) -> None:
    async with sent_on(world) as (plane, stream, reading):
        await stream.aclose()
        plane.go_on.set()
        assert await reading == []
        assert await stream.batch() == []


@in_virtual_time(World)
async def test_a_read_that_is_cancelled_while_the_request_is_sent_on_does_not_turn_into_a_plain_end(
    world: World,
) -> None:
    async with sent_on(world) as (_, stream, reading):
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        with pytest.raises(Overloaded):
            await stream.batch()
        assert await stream.batch() == []


@in_virtual_time(World)
async def test_a_cancelled_read_leaves_the_stream_readable(world: World) -> None:
    go_on = asyncio.Event()

    async def waits(request: object) -> AsyncIterator[object]:
        await go_on.wait()
        yield "late"

    await world.add(waits)
    client = await world.client(1)
    stream = await client.generate("x", annotated=False)
    reading = asyncio.ensure_future(stream.batch())
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    go_on.set()
    async with asyncio.timeout(DEADLINE_S):
        assert await stream.batch() == ["late"]


async def turns(client: Client, avoid: Container[int] = ()) -> list[int]:
    """Who is asked by four requests."""
    return [(await client.round_robin("x", avoid=avoid)).instance_id for _ in range(4)]


@in_virtual_time(World)
async def test_instances_take_turns_but_for_those_to_avoid(world: World) -> None:
    ids = sorted([await world.add(well) for _ in range(4)])
    client = await world.client(4)
    assert await turns(client) == ids
    assert await turns(client, avoid=ids[:2]) == ids[2:] * 2
    with pytest.raises(NoInstances, match="none of the 4 instances of ns/comp/ep is left"):
        await turns(client, avoid=ids)


@pytest.mark.parametrize("refuse", [full, gone])
@in_virtual_time(World)
async def test_a_request_that_is_refused_does_not_go_to_those_to_avoid(world: World, refuse: Answer) -> None:
    await world.add(refuse)
    avoided, good = await world.add(well), await world.add(well)
    client = await world.client(3)
    for _ in range(4):
        assert await items(client, avoid=[avoided]) == ["first", "second"]
    assert (world.begun[avoided], world.begun[good]) == (0, 4)


@in_virtual_time(World)
async def test_instances_that_were_at_fault_are_passed_over_unless_no_other_is_left(world: World) -> None:
    await world.add_ghost(77)
    good = await world.add(well)
    client = await world.client(2)
    with pytest.raises(CannotConnect):
        await client.direct("x", 77)
    assert await turns(client) == [good] * 4
    with pytest.raises(CannotConnect, match="nothing listens at inproc://ghost-77"):
        await client.round_robin("x", avoid=[good])


@in_virtual_time(World)
async def test_an_error_of_a_handler_is_no_fault_of_its_instance(world: World) -> None:
    async def fails(request: object) -> AsyncIterator[object]:
        raise ValueError("no")
        yield

    await world.add_ghost(77)
    client = await world.client(1)
    with pytest.raises(CannotConnect):
        await client.direct("x", 77)
    id = await world.add(fails)
    await client.wait_for_instances(2, DEADLINE_S)
    with pytest.raises(HandlerError):
        await anext(await client.direct("x", id))
    assert (client.is_passed_over(77), client.is_passed_over(id)) == (True, False)

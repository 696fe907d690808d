"""Endpoints, clients and their lives, within one process."""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import msgspec
import pytest
from pydantic import BaseModel

from dynamo._core.address import EndpointId
from dynamo._core.context import Context
from dynamo._core.discovery.memory import MemoryDiscovery
from dynamo._core.errors import DynamoError, NotFound
from dynamo._core.request_plane.inproc import InprocPlane
from dynamo.runtime import (
    Annotated,
    CannotConnect,
    DistributedRuntime,
    EngineShutdown,
    HandlerError,
    InvalidArgument,
    NoInstances,
)

DEADLINE_S = 60.0


@pytest.fixture
async def runtime() -> AsyncIterator[DistributedRuntime]:
    async with DistributedRuntime(discovery="memory:", request_plane="inproc:") as runtime:
        yield runtime


async def collect(runtime: DistributedRuntime, request: object, path: str = "ns.comp.ep") -> list[object]:
    client = await runtime.endpoint(path).client()
    return [item async for item in await client.generate(request, annotated=False)]


async def words(request: dict[str, str], context: Context) -> AsyncIterator[str]:
    for word in request["text"].split():
        yield word


async def test_a_handler_streams_to_a_client(runtime: DistributedRuntime) -> None:
    await runtime.namespace("ns").component("comp").endpoint("ep").serve(words)
    assert await collect(runtime, {"text": "one two three"}) == ["one", "two", "three"]


async def test_every_kind_of_handler_serves(runtime: DistributedRuntime) -> None:
    async def unary(request: int) -> int:
        return request + 1

    def plain(request: int) -> int:
        return request + 2

    def generator(request: int) -> Iterator[int]:
        yield from range(request)

    class Callable:
        async def __call__(self, request: int, context: Context) -> str:
            return f"{request} {context.request_id != ''}"

    async def returns_a_stream(request: int) -> AsyncIterator[int]:
        async def stream() -> AsyncIterator[int]:
            yield request

        return stream()

    for name, handler, expected in (
        ("unary", unary, [4]),
        ("plain", plain, [5]),
        ("generator", generator, [0, 1, 2]),
        ("callable", Callable(), ["3 True"]),
        ("stream", returns_a_stream, [3]),
    ):
        await runtime.endpoint(f"ns.comp.{name}").serve(handler)
        assert await collect(runtime, 3, f"ns.comp.{name}") == expected


async def test_plain_functions_run_beside_the_loop(runtime: DistributedRuntime) -> None:
    def where(request: None) -> Iterator[bool]:
        yield threading.current_thread() is threading.main_thread()

    await runtime.endpoint("ns.comp.ep").serve(where)
    assert await collect(runtime, None) == [False]


async def test_closing_the_stream_closes_a_generator_that_runs_in_a_thread(runtime: DistributedRuntime) -> None:
    closed = threading.Event()

    def endless(request: None) -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    await runtime.endpoint("ns.comp.ep").serve(endless)
    client = await runtime.endpoint("ns.comp.ep").client()
    async with await client.generate(None) as stream:
        await anext(stream)
    assert await asyncio.to_thread(closed.wait, DEADLINE_S)


async def test_a_handler_must_take_a_request(runtime: DistributedRuntime) -> None:
    def nothing() -> None: ...

    with pytest.raises(TypeError, match=r"must take \(request\) or \(request, context\)"):
        await runtime.endpoint("ns.comp.ep").serve(nothing)


async def test_items_are_annotated_unless_asked_otherwise(runtime: DistributedRuntime) -> None:
    async def notes(request: None) -> AsyncIterator[object]:
        yield {"text": "plain"}
        yield Annotated("data", event="progress", comment=["half"], id="1")

    await runtime.endpoint("ns.comp.ep").serve(notes)
    client = await runtime.endpoint("ns.comp.ep").client()
    items = [item async for item in await client.generate(None)]
    assert repr(items[0]) == "Annotated(data={'text': 'plain'}, event=None, comment=[], id=None)"
    assert (items[1].data(), items[1].event(), items[1].comments(), items[1].id()) == (
        "data",
        "progress",
        ["half"],
        "1",
    )
    assert await collect(runtime, None) == [{"text": "plain"}, "data"]


async def test_models_and_structs_are_dumped(runtime: DistributedRuntime) -> None:
    class Reply(BaseModel):
        text: str

    class Point(msgspec.Struct):
        x: int

    async def reply(request: dict[str, str]) -> AsyncIterator[object]:
        yield Reply(text=request["text"])
        yield Point(1)

    await runtime.endpoint("ns.comp.ep").serve(reply)
    assert await collect(runtime, Reply(text="hi")) == [{"text": "hi"}, {"x": 1}]


async def test_items_decode_into_a_type_on_request(runtime: DistributedRuntime) -> None:
    class Point(msgspec.Struct):
        x: int

    async def points(request: Point) -> AsyncIterator[Point]:
        yield Point(request.x + 1)

    await runtime.endpoint("ns.comp.ep").serve(points, request_type=Point)
    client = await runtime.endpoint("ns.comp.ep").client()
    assert [item async for item in await client.generate(Point(1), item_type=Point)] == [Point(2)]


async def test_a_request_of_the_wrong_shape_is_an_invalid_argument(runtime: DistributedRuntime) -> None:
    class Point(msgspec.Struct):
        x: int

    async def never(request: Point) -> AsyncIterator[Point]:
        yield request

    await runtime.endpoint("ns.comp.ep").serve(never, request_type=Point)
    with pytest.raises(InvalidArgument, match=r"invalid request: Expected `int`, got `str` - at `\$.x`"):
        await collect(runtime, {"x": "one"})


async def test_what_json_cannot_say_is_a_type_error(runtime: DistributedRuntime) -> None:
    await runtime.endpoint("ns.comp.ep").serve(words)
    client = await runtime.endpoint("ns.comp.ep").client()
    with pytest.raises(TypeError, match="unsupported type object"):
        await client.generate(object())


async def test_an_exception_arrives_after_the_items_before_it(runtime: DistributedRuntime) -> None:
    async def fails(request: None) -> AsyncIterator[int]:
        yield 1
        raise KeyError("slot")

    await runtime.endpoint("ns.comp.ep").serve(fails)
    client = await runtime.endpoint("ns.comp.ep").client()
    stream = await client.generate(None, annotated=False)
    assert await anext(stream) == 1
    with pytest.raises(HandlerError, match="KeyError: 'slot'"):
        await anext(stream)


async def test_an_error_stays_one_layer_over_two_hops(runtime: DistributedRuntime) -> None:
    async def fails(request: None) -> AsyncIterator[int]:
        raise ValueError("deep")
        yield 0

    async def forwards(request: None) -> AsyncIterator[object]:
        client = await runtime.endpoint("ns.comp.inner").client()
        async for item in await client.generate(request, annotated=False):
            yield item

    await runtime.endpoint("ns.comp.inner").serve(fails)
    await runtime.endpoint("ns.comp.ep").serve(forwards)
    with pytest.raises(HandlerError) as caught:
        await collect(runtime, None)
    assert str(caught.value) == "ValueError: deep"


async def test_ending_the_outer_request_ends_the_inner_one(runtime: DistributedRuntime) -> None:
    ended = asyncio.Event()

    async def waits(request: None) -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def forwards(request: None, context: Context) -> AsyncIterator[object]:
        client = await runtime.endpoint("ns.comp.inner").client()
        async for item in await client.generate(request, annotated=False, context=context):
            yield item

    await runtime.endpoint("ns.comp.inner").serve(waits)
    await runtime.endpoint("ns.comp.ep").serve(forwards)
    client = await runtime.endpoint("ns.comp.ep").client()
    stream = await client.generate(None)
    await anext(stream)
    await stream.aclose()
    async with asyncio.timeout(DEADLINE_S):
        await ended.wait()


async def test_dropping_a_stream_ends_its_handler(runtime: DistributedRuntime) -> None:
    ended = asyncio.Event()

    async def waits(request: None) -> AsyncIterator[int]:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            ended.set()

    await runtime.endpoint("ns.comp.ep").serve(waits)
    client = await runtime.endpoint("ns.comp.ep").client()
    async for _ in await client.generate(None):
        break
    async with asyncio.timeout(DEADLINE_S):
        await ended.wait()


async def test_a_client_knows_the_instances_when_it_is_returned(runtime: DistributedRuntime) -> None:
    endpoint = runtime.endpoint("ns.comp.ep")
    served = await endpoint.serve(words)
    client = await endpoint.client()
    assert client.instance_ids() == [served.instance_id] == [endpoint.lease_id()]


async def test_waiting_for_instances_ends_when_they_come(runtime: DistributedRuntime) -> None:
    endpoint = runtime.endpoint("ns.comp.ep")
    client = await endpoint.client()
    waiting = asyncio.ensure_future(client.wait_for_instances(timeout_s=DEADLINE_S))
    served = await endpoint.serve(words)
    assert await waiting == [served.instance_id]


async def test_waiting_for_instances_that_never_come_says_so(runtime: DistributedRuntime) -> None:
    client = await runtime.endpoint("ns.comp.ep").client()
    with pytest.raises(NoInstances, match="0 of 1 instances serve ns/comp/ep"):
        await client.wait_for_instances(timeout_s=0.01)


async def test_calling_an_endpoint_that_nobody_serves_says_so(runtime: DistributedRuntime) -> None:
    client = await runtime.endpoint("ns.comp.ep").client()
    with pytest.raises(NoInstances, match="no instances found for endpoint 'ns/comp/ep'"):
        await client.generate(None)


async def test_an_unknown_instance_cannot_be_called_directly(runtime: DistributedRuntime) -> None:
    client = await runtime.endpoint("ns.comp.ep").client()
    with pytest.raises(NotFound, match="instance 3039 not found"):
        await client.direct(None, 12345)


async def test_a_closed_endpoint_leaves_discovery_and_ends_its_requests(runtime: DistributedRuntime) -> None:
    async def waits(request: None) -> AsyncIterator[int]:
        yield 1
        await asyncio.Event().wait()

    endpoint = runtime.endpoint("ns.comp.ep")
    served = await endpoint.serve(waits)
    client = await endpoint.client()
    stream = await client.generate(None)
    await anext(stream)
    await served.close(drain_s=0)
    with pytest.raises(EngineShutdown):
        await anext(stream)
    assert await runtime.discovery.get_prefix(endpoint.id.instances_prefix) == {}


async def test_serve_endpoint_returns_when_the_runtime_shuts_down(runtime: DistributedRuntime) -> None:
    serving = asyncio.ensure_future(runtime.endpoint("ns.comp.ep").serve_endpoint(words))
    client = await runtime.endpoint("ns.comp.ep").client()
    await client.wait_for_instances(timeout_s=DEADLINE_S)
    runtime.shutdown()
    async with asyncio.timeout(DEADLINE_S):
        await serving


class Fleet:
    """Several workers that share a discovery and a network."""

    def __init__(self) -> None:
        self.discovery = MemoryDiscovery()
        self.plane = InprocPlane()

    def runtime(self, seed: int = 0) -> DistributedRuntime:
        return DistributedRuntime(discovery=self.discovery, request_plane=self.plane, rng=random.Random(seed))


async def whoami_worker(runtime: DistributedRuntime) -> int:
    async def whoami(request: None) -> int:
        return runtime.lease.id

    return (await runtime.endpoint("ns.comp.ep").serve(whoami)).instance_id


async def test_round_robin_is_fair_and_random_reaches_everyone() -> None:
    fleet = Fleet()
    async with fleet.runtime() as one, fleet.runtime() as two, fleet.runtime() as three, fleet.runtime() as caller:
        ids = sorted([await whoami_worker(worker) for worker in (one, two, three)])
        client = await caller.endpoint("ns.comp.ep").client()
        assert client.instance_ids() == ids
        turns = [await anext(await client.round_robin(None, annotated=False)) for _ in range(10)]
        counts = Counter(map(str, turns))
        assert max(counts.values()) - min(counts.values()) <= 1
        assert {await anext(await client.random(None, annotated=False)) for _ in range(100)} == set(ids)
        assert await anext(await client.direct(None, ids[1], annotated=False)) == ids[1]


async def test_an_instance_that_cannot_be_reached_is_passed_over() -> None:
    fleet = Fleet()
    async with fleet.runtime() as one, fleet.runtime() as caller:
        alive = await whoami_worker(one)
        endpoint = EndpointId("ns", "comp", "ep")
        for ghost in (1, 2**62):
            record = {**endpoint_record(endpoint), "instance_id": ghost, "transport": {"inproc": "inproc://ghost"}}
            await fleet.discovery.put(endpoint.instance_key(ghost), msgspec.json.encode(record))
        client = await caller.endpoint("ns.comp.ep").client()
        assert len(client.instance_ids()) == 3
        assert [await anext(await client.round_robin(None, annotated=False)) for _ in range(6)] == [alive] * 6


async def test_if_nobody_can_be_reached_the_caller_is_told() -> None:
    fleet = Fleet()
    endpoint = EndpointId("ns", "comp", "ep")
    record = {**endpoint_record(endpoint), "instance_id": 1, "transport": {"inproc": "inproc://ghost"}}
    await fleet.discovery.put(endpoint.instance_key(1), msgspec.json.encode(record))
    async with fleet.runtime() as caller:
        client = await caller.endpoint("ns.comp.ep").client()
        for _ in range(2):
            with pytest.raises(CannotConnect):
                await client.generate(None)


def endpoint_record(endpoint: EndpointId) -> dict[str, object]:
    return {"namespace": endpoint.namespace, "component": endpoint.component, "endpoint": endpoint.endpoint}


async def test_a_record_that_cannot_be_read_hides_nobody(
    runtime: DistributedRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = runtime.endpoint("ns.comp.ep")
    await runtime.discovery.put(endpoint.id.instance_key(7), b"not json")
    served = await endpoint.serve(words)
    client = await endpoint.client()
    assert client.instance_ids() == [served.instance_id]
    assert "it is not the record of an instance" in caplog.text


async def test_a_runtime_joins_once() -> None:
    async with DistributedRuntime(discovery="memory:", request_plane="inproc:") as runtime:
        served = await runtime.serve("ns.comp.ep", lambda request: request)
        with pytest.raises(DynamoError, match="has joined before: open a new one"):
            async with runtime:
                pass
        assert served.is_open
    with pytest.raises(DynamoError, match="has joined before: open a new one"):
        async with runtime:
            pass

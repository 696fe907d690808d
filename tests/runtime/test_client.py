"""The calling side: what discovery says of instances is not trusted, turns are fair, endings are clean."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from typing import assert_type

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo._core.discovery.base import Change, Synced
from dynamo._core.discovery.memory import MemoryDiscovery
from dynamo._core.errors import ConfigError, ProtocolError
from dynamo._core.request_plane.inproc import InprocPlane
from dynamo.runtime import (
    CannotConnect,
    Client,
    Disconnected,
    DistributedRuntime,
    DynamoError,
    NoInstances,
    ResponseStream,
)
from dynamo.runtime._client import next_in_turn
from dynamo.runtime._codec import JsonValue

DEADLINE_S = 60.0


@pytest.fixture
async def runtime() -> AsyncIterator[DistributedRuntime]:
    async with DistributedRuntime(discovery="memory:", request_plane="inproc:") as runtime:
        yield runtime


async def one(request: object) -> AsyncIterator[int]:
    yield 1


async def ids_become(client: Client, ids: list[int]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while client.instance_ids() != ids:
            await client.wait_for_change()


async def ids_include(client: Client, id: int) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while id not in client.instance_ids():
            await client.wait_for_change()


def record(instance_id: object, **changes: object) -> bytes:
    content = {
        "namespace": "ns",
        "component": "comp",
        "endpoint": "ep",
        "instance_id": instance_id,
        "transport": {"inproc": "inproc://ghost"},
    }
    return msgspec.json.encode({**content, **changes})


@given(st.sets(st.integers(0, 1000), min_size=1), st.data())
def test_turns_are_fair_to_those_who_stay_whoever_comes_and_goes(staying: set[int], data: st.DataObject) -> None:
    last_id, turns = -1, Counter(dict.fromkeys(staying, 0))
    for _ in range(30):
        passing = data.draw(st.sets(st.integers(0, 1000), max_size=5))
        last_id = next_in_turn(sorted(staying | passing), last_id)
        turns[last_id] += 1
    counts = [turns[id] for id in staying]
    assert max(counts) - min(counts) <= 1


HOSTILE_KEYS = ["", "zz", "0x5", "-1", "+1", " 1", "1_0", "5/5", "f" * 17, "0005", "%35", "é"]


@pytest.mark.parametrize("name", HOSTILE_KEYS)
async def test_a_key_that_names_no_instance_harms_nobody(runtime: DistributedRuntime, name: str) -> None:
    endpoint = runtime.endpoint("ns.comp.ep")
    client = await endpoint.client()
    served = await endpoint.serve(one)
    key = endpoint.id.instances_prefix + name
    for content, marker in ((record(5), 1 << 61), (record(served.instance_id), 1 << 62), (None, 1 << 63)):
        if content is None:
            await runtime.discovery.delete(key)
        else:
            await runtime.discovery.put(key, content)
        # Changes come in order: when this one is seen, so was the other.
        await runtime.discovery.put(endpoint.id.instance_key(marker), record(marker))
        await ids_include(client, marker)
        assert served.instance_id in client.instance_ids()
        assert 5 not in client.instance_ids()
        await runtime.discovery.delete(endpoint.id.instance_key(marker))


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff",
        b"[" * 100_000,
        b'{"x":' + b"[" * 100_000,
        record(6),
        record(-5),
        record("5"),
        record(5, transport={}),
        record(5, transport={"tcp": 3}),
        record(5, namespace=None),
    ],
    ids=range(10),
)
async def test_a_record_that_makes_no_sense_harms_nobody(runtime: DistributedRuntime, value: bytes) -> None:
    endpoint = runtime.endpoint("ns.comp.ep")
    client = await endpoint.client()
    key = endpoint.id.instance_key(5)
    await runtime.discovery.put(key, record(5))
    await ids_become(client, [5])
    await runtime.discovery.put(key, value)
    await ids_become(client, [])
    await runtime.discovery.put(key, record(5))
    await ids_become(client, [5])
    await runtime.discovery.delete(key)
    await ids_become(client, [])


@pytest.mark.parametrize("address", ["", "garbage", "tcp://\x00", "x" * 100_000, "tcp://é:1/1"])
async def test_an_address_that_is_none_is_passed_over(address: str) -> None:
    async with DistributedRuntime(discovery="memory:", request_plane="tcp:") as runtime:
        endpoint = runtime.endpoint("ns.comp.ep")
        await endpoint.serve(one)
        for ghost in (1, (1 << 63) - 1):
            await runtime.discovery.put(endpoint.id.instance_key(ghost), record(ghost, transport={"tcp": address}))
        client = await endpoint.client()
        assert len(client.instance_ids()) == 3
        for _ in range(6):
            assert [item async for item in await client.round_robin(None, annotated=False)] == [1]
        with pytest.raises(CannotConnect):
            await client.direct(None, 1)


async def test_an_instance_that_direct_could_not_reach_is_passed_over_by_the_others(
    runtime: DistributedRuntime,
) -> None:
    endpoint = runtime.endpoint("ns.comp.ep")
    served = await endpoint.serve(one)
    await runtime.discovery.put(endpoint.id.instance_key(1), record(1))
    client = await endpoint.client()
    with pytest.raises(CannotConnect):
        await client.direct(None, 1)
    for _ in range(5):
        assert (await client.round_robin(None)).instance_id == served.instance_id


@pytest.mark.parametrize("batched", [True, False])
async def test_an_instance_that_tells_of_a_loss_further_down_is_not_passed_over(batched: bool) -> None:
    async def relay(request: object) -> AsyncIterator[int]:
        if request == "fail":
            raise Disconnected("the worker behind this one was lost")
        yield 1

    discovery, plane = MemoryDiscovery(), InprocPlane()
    async with (
        DistributedRuntime(discovery=discovery, request_plane=plane) as first,
        DistributedRuntime(discovery=discovery, request_plane=plane) as second,
    ):
        for runtime in (first, second):
            await runtime.endpoint("ns.comp.ep").serve(relay)
        client = await first.endpoint("ns.comp.ep").client()
        await client.wait_for_instances(2)
        stream = await client.direct("fail", second.lease.id)
        with pytest.raises(Disconnected, match="behind this one"):
            await (stream.batch() if batched else anext(stream))
        used = {(await client.round_robin("work")).instance_id for _ in range(2)}
        assert used == {first.lease.id, second.lease.id}


async def test_waiting_ends_when_the_client_is_closed(runtime: DistributedRuntime) -> None:
    client = await runtime.endpoint("ns.comp.ep").client()
    waiting = asyncio.ensure_future(client.wait_for_instances())
    await asyncio.sleep(0)
    await client.close()
    await client.close()
    with pytest.raises(DynamoError, match="is closed"):
        async with asyncio.timeout(DEADLINE_S):
            await waiting
    with pytest.raises(DynamoError, match="is closed"):
        await client.wait_for_change()


async def test_waiting_ends_when_discovery_ends_and_the_last_instances_are_kept() -> None:
    discovery = MemoryDiscovery()
    async with DistributedRuntime(discovery=discovery, request_plane="inproc:") as runtime:
        endpoint = runtime.endpoint("ns.comp.ep")
        served = await endpoint.serve(one)
        client = await endpoint.client()
        waiting = asyncio.ensure_future(client.wait_for_instances(2))
        await asyncio.sleep(0)
        await discovery.close()
        with pytest.raises(DynamoError, match="discovery has ended"):
            async with asyncio.timeout(DEADLINE_S):
                await waiting
        assert client.instance_ids() == [served.instance_id]
        with pytest.raises(DynamoError):
            await endpoint.client()
        discovery._closed = False  # so that the runtime can leave


async def test_closing_a_client_can_be_cancelled(runtime: DistributedRuntime) -> None:
    client = await runtime.endpoint("ns.comp.ep").client()
    closing = asyncio.ensure_future(client.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing


async def test_a_client_that_cannot_start_says_why_and_leaves_nothing() -> None:
    class Refusing(MemoryDiscovery):
        async def watch(self, prefix: str) -> AsyncGenerator[Change, None]:
            raise ConfigError("not here")
            yield Synced()

    async with DistributedRuntime(discovery=Refusing(), request_plane="inproc:") as runtime:
        before = asyncio.all_tasks()
        with pytest.raises(ConfigError, match="not here"):
            await runtime.endpoint("ns.comp.ep").client()
        assert asyncio.all_tasks() == before


async def test_an_item_that_cannot_be_read_is_an_error_of_ours(runtime: DistributedRuntime) -> None:
    class Point(msgspec.Struct):
        x: int

    endpoint = runtime.endpoint("ns.comp.ep")
    await endpoint.serve(one)
    client = await endpoint.client()
    with pytest.raises(ProtocolError, match="cannot be read: Expected `object`, got `int`"):
        await anext(await client.generate(None, item_type=Point))
    with pytest.raises(ProtocolError, match="cannot be read: Expected `object`, got `int`"):
        await (await client.generate(None, item_type=Point)).batch()


async def test_a_client_of_a_closed_runtime_cannot_be_made() -> None:
    plane = InprocPlane()
    discovery = MemoryDiscovery()
    async with DistributedRuntime(discovery=discovery, request_plane=plane) as runtime:
        endpoint = runtime.endpoint("ns.comp.ep")
        client = await endpoint.client()
    with pytest.raises(DynamoError, match="closed"):
        await endpoint.client()
    with pytest.raises(DynamoError):
        await endpoint.serve(one)
    with pytest.raises(NoInstances):
        await client.generate(None)


async def test_the_older_names_of_a_client_mean_the_same(runtime: DistributedRuntime) -> None:
    endpoint = runtime.endpoint("ns.comp.ep")
    served = await endpoint.serve(one)
    client = await endpoint.client()
    assert [item async for item in await client.random(None, annotated=False)] == [1]
    with pytest.warns(DeprecationWarning, match="wait_for_endpoints is wait_for_instances now"):
        assert await client.wait_for_endpoints() == [served.instance_id]
    with pytest.warns(DeprecationWarning, match="endpoint_ids is instance_ids now"):
        assert_type(ids := client.endpoint_ids(), list[int])
    assert ids == [served.instance_id]
    with pytest.warns(DeprecationWarning, match="use generate"):
        assert_type(stream := await client.static(None, annotated=False), ResponseStream[JsonValue])
    assert [item async for item in stream] == [1]

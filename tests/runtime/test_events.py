"""Events and runtimes: what is published is heard as it was said, and nothing is opened before that."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest
from pydantic import BaseModel
from tests.nats_server import nats_server

from dynamo._core.discovery.memory import MemoryDiscovery
from dynamo._core.event_plane.inproc import EventBus, InprocEventPlane
from dynamo._internal import Component, Namespace
from dynamo.runtime import (
    CannotConnect,
    DistributedRuntime,
    DynamoError,
    Endpoint,
    Event,
    Gap,
    InvalidArgument,
    Subscription,
)

DEADLINE_S = 60.0


class Load(msgspec.Struct):
    num_requests_waiting: int


class LoadModel(BaseModel):
    num_requests_waiting: int


OpenRuntime = Callable[[], Awaitable[DistributedRuntime]]


@pytest.fixture
async def open_runtime() -> AsyncIterator[OpenRuntime]:
    """Opens runtimes of one system that hear each other within this process."""
    bus, discovery = EventBus(), MemoryDiscovery()
    async with AsyncExitStack() as stack:

        async def open_one() -> DistributedRuntime:
            plane = InprocEventPlane(bus)
            stack.push_async_callback(plane.close)
            runtime = DistributedRuntime(discovery=discovery, request_plane="inproc:", event_plane=plane)
            return await stack.enter_async_context(runtime)

        yield open_one


@pytest.fixture
async def runtime(open_runtime: OpenRuntime) -> DistributedRuntime:
    return await open_runtime()


async def heard(subscription: Subscription[object]) -> object:
    """The payload of the next event; there must be one."""
    async with asyncio.timeout(DEADLINE_S):
        item = await anext(subscription)
    assert isinstance(item, Event)
    return item.payload


# What is said is heard


@pytest.mark.parametrize("payload", [None, 1, 0.5, "text", [1, "two"], {"blocks": [1, 2], "more": {"a": None}}])
async def test_a_value_is_heard_as_it_was_said(open_runtime: OpenRuntime, payload: object) -> None:
    here, there = await open_runtime(), await open_runtime()
    async with await there.events.subscribe("kv") as subscription:
        await here.events.publish("kv", payload)
        assert await heard(subscription) == payload


@pytest.mark.parametrize("said", [{"num_requests_waiting": 3}, Load(3), LoadModel(num_requests_waiting=3)])
async def test_payloads_are_read_into_a_type_if_one_is_wanted(runtime: DistributedRuntime, said: object) -> None:
    async with (
        await runtime.events.subscribe("load", Load) as structs,
        await runtime.events.subscribe("load", LoadModel) as models,
        await runtime.events.subscribe("load") as values,
    ):
        await runtime.events.publish("load", said)
        assert await heard(structs) == Load(3)
        assert await heard(models) == LoadModel(num_requests_waiting=3)
        assert await heard(values) == {"num_requests_waiting": 3}


async def test_an_event_says_who_has_published_it_and_which_of_theirs_it_is(open_runtime: OpenRuntime) -> None:
    here, there = await open_runtime(), await open_runtime()
    subscription = await here.events.subscribe("kv")
    publishers = [await here.events.open(), await there.events.open()]
    for runtime in (here, there, here):
        await runtime.events.publish("kv", "said")
    first, second = (publisher.publisher_id for publisher in publishers)
    assert await subscription.batch() == [Event(first, 1, "said"), Event(second, 1, "said"), Event(first, 2, "said")]


async def test_a_payload_that_cannot_be_read_is_a_gap_and_is_told_of(
    runtime: DistributedRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    for payload_type in (Load, LoadModel):
        subscription = await runtime.events.subscribe("load", payload_type)
        await runtime.events.publish("load", "no load")
        await runtime.events.publish("load", Load(1))
        plane = await runtime.events.open()
        gap, event = await subscription.batch()
        assert gap == Gap(plane.publisher_id, 1)
        assert isinstance(event, Event)
        await subscription.aclose()
    assert caplog.text.count("events on load could not be read") == 2


async def test_what_has_no_json_form_is_refused(runtime: DistributedRuntime) -> None:
    with pytest.raises(TypeError, match="unsupported type"):
        await runtime.events.publish("kv", object())
    with pytest.raises(InvalidArgument, match="subject"):
        await runtime.events.publish("no subject", 1)
    with pytest.raises(InvalidArgument, match="subject"):
        await runtime.events.subscribe("no subject")


# The end


async def test_subscriptions_end_with_their_runtime_and_no_other(open_runtime: OpenRuntime) -> None:
    leaving, staying = await open_runtime(), await open_runtime()
    ended, open_still = await leaving.events.subscribe("kv"), await staying.events.subscribe("kv")
    events = leaving.events
    await leaving.close()
    assert [item async for item in ended] == []
    assert await ended.batch() == []
    for use in (events.publish("kv", 1), events.subscribe("kv")):
        with pytest.raises(DynamoError, match="closed"):
            await use
    await staying.events.publish("kv", "still here")
    assert await heard(open_still) == "still here"


async def test_closing_twice_changes_nothing(runtime: DistributedRuntime) -> None:
    subscription = await runtime.events.subscribe("kv")
    await subscription.aclose()
    await subscription.aclose()
    assert await subscription.batch() == []
    await runtime.events.close()
    await runtime.events.close()


# Opened on first use


async def test_a_process_without_events_pays_nothing_for_them() -> None:
    script = """
import asyncio, sys
from dynamo.runtime import DistributedRuntime

async def answer(request):
    yield request

async def main():
    async with DistributedRuntime(discovery="memory:", request_plane="inproc:") as runtime:
        await runtime.endpoint("a.b.c").serve(answer)
        client = await runtime.endpoint("a.b.c").client()
        print([item async for item in await client.generate(1, annotated=False)])
        print(runtime.events.stats, sorted({"zmq", "nats", "pydantic"} & set(sys.modules)))
        await runtime.events.publish("kv", 1)
        print("zmq" in sys.modules, runtime.events.stats.num_published)

asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=PIPE, stderr=STDOUT)
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert out.decode().splitlines() == ["[1]", "None []", "True 1"]


async def test_those_who_come_at_the_same_time_share_one_plane() -> None:
    async with DistributedRuntime(discovery="memory:", request_plane="inproc:", event_plane="zmq") as runtime:
        planes = await asyncio.gather(*(runtime.events.open() for _ in range(5)))
        assert len(set(map(id, planes))) == 1


@pytest.mark.parametrize("url", ["zmq:", "nats"])
async def test_runtimes_hear_each_other_over_sockets(tmp_path: Path, url: str) -> None:
    async with AsyncExitStack() as stack:
        if url == "nats":
            url = (await stack.enter_async_context(nats_server(tmp_path))).url
        discovery = MemoryDiscovery()
        here, there = [
            await stack.enter_async_context(
                DistributedRuntime(discovery=discovery, request_plane="inproc:", event_plane=url)
            )
            for _ in range(2)
        ]
        subscription = await there.events.subscribe("kv")
        reading = asyncio.create_task(anext(subscription))
        async with asyncio.timeout(DEADLINE_S):
            while not reading.done():
                await here.events.publish("kv", {"stored": [1, 2, 3]})
                await asyncio.wait([reading], timeout=0.05)
        event = reading.result()
        assert isinstance(event, Event)
        assert event.payload == {"stored": [1, 2, 3]}


# Servers that are not there


async def test_a_server_that_is_not_there_is_an_error_that_names_the_setting_and_is_tried_again(
    tmp_path: Path,
) -> None:
    async with nats_server(tmp_path) as server, AsyncExitStack() as stack:
        await server.kill()
        runtime = await stack.enter_async_context(
            DistributedRuntime(discovery="memory:", request_plane="inproc:", event_plane=server.url)
        )
        for _ in range(3):
            with pytest.raises(CannotConnect, match="event_plane: "):
                await runtime.events.publish("kv", 1)
        await server.start()
        async with asyncio.timeout(DEADLINE_S):
            while runtime.events.stats is None:
                try:
                    await runtime.events.publish("kv", 1)
                except CannotConnect:
                    await asyncio.sleep(0.05)


@pytest.mark.parametrize("url", ["kafka://h", "nats2", ""])
async def test_a_url_that_is_none_is_noticed_when_the_runtime_joins(url: str) -> None:
    with pytest.raises(DynamoError, match="event_plane="):
        async with DistributedRuntime(discovery="memory:", request_plane="inproc:", event_plane=url):
            pass


# Names whose events they are


async def test_the_events_of_a_name_are_heard_by_those_who_listen_to_it_and_no_others(
    open_runtime: OpenRuntime,
) -> None:
    here, there = await open_runtime(), await open_runtime()

    def scopes(runtime: DistributedRuntime) -> list[Namespace | Component | Endpoint]:
        namespace = runtime.namespace("ns")
        component = namespace.component("comp")
        return [namespace, component, component.endpoint("ep"), runtime.namespace("other").component("comp")]

    subscriptions = [await scope.subscribe("kv") for scope in scopes(there)]
    for number, scope in enumerate(scopes(here)):
        await scope.publish("kv", number)
        await scope.publish("load", "not for you")
    assert [await heard(subscription) for subscription in subscriptions] == [0, 1, 2, 3]
    await there.events.close()
    assert [await subscription.batch() for subscription in subscriptions] == [[], [], [], []]


async def test_the_events_of_a_name_may_be_of_a_type(runtime: DistributedRuntime) -> None:
    component = runtime.namespace("ns").component("comp")
    subscription = await component.subscribe("load", Load)
    await component.publish("load", Load(3))
    assert await heard(subscription) == Load(3)

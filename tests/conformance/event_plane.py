"""What the suites of the event plane share: several parties of each kind that should hear each other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio
from tests.nats_server import nats_server

from dynamo._core.discovery.memory import MemoryDiscovery
from dynamo._core.event_plane import Event, EventPlane, Gap, Subscription
from dynamo._core.event_plane.inproc import EventBus, InprocEventPlane
from dynamo._core.event_plane.nats import NatsEventPlane
from dynamo._core.event_plane.zmq import ZmqEventPlane

DEADLINE_S = 60.0
HELLO = b"hello"


class Parties:
    """Opens planes that hear each other, and closes them at the end."""

    def __init__(self, make: Callable[[], Awaitable[EventPlane]], stack: AsyncExitStack) -> None:
        self._make = make
        self._stack = stack

    async def open(self) -> EventPlane:
        plane = await self._make()
        self._stack.push_async_callback(plane.close)
        return plane


@pytest_asyncio.fixture(params=["inproc", "zmq", "zmq with a token", "nats"])
async def parties(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Parties]:
    async with AsyncExitStack() as stack:
        bus, discovery = EventBus(), MemoryDiscovery()
        url = (await stack.enter_async_context(nats_server(tmp_path / "nats"))).url if request.param == "nats" else ""

        async def make() -> EventPlane:
            if request.param == "inproc":
                return InprocEventPlane(bus)
            if request.param == "zmq":
                return ZmqEventPlane(discovery)
            if request.param == "zmq with a token":
                return ZmqEventPlane(discovery, token=b"t" * 32)
            return await NatsEventPlane.connect(url, {})

        yield Parties(make, stack)


async def meet(publisher: EventPlane, *subscriptions: Subscription, subject: str = "kv") -> int:
    """Publish until everyone has heard it; return the last sequence. Nothing is left to read after it."""
    async with asyncio.timeout(DEADLINE_S):
        waiting = [asyncio.create_task(_next_of(publisher, subscription)) for subscription in subscriptions]
        while not all(task.done() for task in waiting):
            await publisher.publish(subject, HELLO)
            await asyncio.wait(waiting, timeout=0.05)
        await publisher.publish(subject, b"met")
        return max([await _read_met(publisher, subscription) for subscription in subscriptions])


async def read(subscription: Subscription, count: int) -> list[Event | Gap]:
    """Read so much; it must arrive in time."""
    items: list[Event | Gap] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(items) < count:
            items.append(await anext(subscription))
    return items


async def read_payloads(subscription: Subscription, count: int) -> list[bytes]:
    """Read so many events, and no gap."""
    items = await read(subscription, count)
    assert all(isinstance(item, Event) for item in items), items
    return [item.payload for item in items if isinstance(item, Event)]


async def read_until(subscription: Subscription, payload: bytes) -> list[Event | Gap]:
    """Read everything up to an event with this payload."""
    items: list[Event | Gap] = []
    async with asyncio.timeout(DEADLINE_S):
        while not items or not isinstance(items[-1], Event) or items[-1].payload != payload:
            items.append(await anext(subscription))
    return items


async def _next_of(publisher: EventPlane, subscription: Subscription) -> None:
    while (await anext(subscription)).publisher_id != publisher.publisher_id:
        pass


async def _read_met(publisher: EventPlane, subscription: Subscription) -> int:
    async for item in subscription:
        if isinstance(item, Event) and (item.publisher_id, item.payload) == (publisher.publisher_id, b"met"):
            return item.sequence
    raise AssertionError("the subscription has ended")

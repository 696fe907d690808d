"""How publishers of events are registered and found, also by a discovery that comes and goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import zmq
from tests._core.event_planes import Opened, opened, raw_publisher
from tests.conformance.event_plane import DEADLINE_S, meet, read_payloads

from dynamo._core.address import event_channel_key
from dynamo._core.discovery import Change, Lease, Put, Synced
from dynamo._core.discovery.memory import MemoryDiscovery, MemoryLease
from dynamo._core.errors import CannotConnect
from dynamo._core.event_plane.zmq import ZmqEventPlane

__all__ = ["opened"]


class LateDiscovery(MemoryDiscovery):
    """A discovery that cannot be reached the first few times."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures

    async def grant(self, ttl_s: float = 10.0) -> MemoryLease:
        self._fail()
        return await super().grant(ttl_s)

    async def put(self, key: str, value: bytes, lease: Lease | None = None) -> None:
        self._fail()
        await super().put(key, value, lease)

    def _fail(self) -> None:
        if self.failures:
            self.failures -= 1
            raise CannotConnect("not there yet")


class LeasesOnSight(MemoryDiscovery):
    """A discovery that remembers the leases that it granted."""

    def __init__(self) -> None:
        super().__init__()
        self.granted: list[MemoryLease] = []

    async def grant(self, ttl_s: float = 10.0) -> MemoryLease:
        self.granted.append(await super().grant(ttl_s))
        return self.granted[-1]


async def test_a_publisher_is_registered_once_discovery_is_there_and_no_longer_than_it_lives(opened: Opened) -> None:
    discovery = LateDiscovery(3)
    plane = opened(ZmqEventPlane(discovery))
    await meet(plane, plane.subscribe("kv"))
    assert discovery.failures == 0
    await plane.close()
    assert await discovery.get_prefix("") == {}


async def test_a_publisher_whose_lease_was_lost_is_registered_again_with_its_next_subject(opened: Opened) -> None:
    discovery = LeasesOnSight()
    plane = opened(ZmqEventPlane(discovery))
    await meet(plane, plane.subscribe("a"), subject="a")
    discovery.expire(discovery.granted[0])
    assert await discovery.get_prefix("") == {}
    await meet(plane, plane.subscribe("b"), subject="b")
    await meet(plane, plane.subscribe("a"), subject="a")


class Interrupted(MemoryDiscovery):
    """A discovery whose watches say what there is, break when they shall, and cannot be had before it is back."""

    def __init__(self) -> None:
        super().__init__()
        self.is_back = asyncio.Event()
        self.is_back.set()
        self._breaks = asyncio.Event()

    def interrupt(self) -> None:
        self.is_back.clear()
        self._breaks.set()

    async def watch(self, prefix: str) -> AsyncGenerator[Change, None]:
        await self.is_back.wait()
        for key, value in (await self.get_prefix(prefix)).items():
            yield Put(key, value)
        yield Synced()
        await self._breaks.wait()
        self._breaks.clear()
        raise CannotConnect("the watch has broken")


async def test_a_publisher_that_left_between_two_watches_is_left(opened: Opened) -> None:
    discovery = Interrupted()
    async with raw_publisher(discovery, 7, zmq.XPUB) as socket, asyncio.timeout(DEADLINE_S):
        opened(ZmqEventPlane(discovery)).subscribe("kv")
        assert await socket.recv() == b"\x01kv"
        discovery.interrupt()
        await discovery.delete(event_channel_key("kv", 7))
        discovery.is_back.set()
        assert await socket.recv() == b"\x00kv"


async def test_the_last_events_of_a_publisher_that_leaves_are_heard(opened: Opened) -> None:
    discovery = MemoryDiscovery()
    here, there = opened(ZmqEventPlane(discovery)), opened(ZmqEventPlane(discovery))
    subscription = there.subscribe("kv")
    await meet(here, subscription)
    payloads = [b"%d" % number for number in range(2000)]
    for payload in payloads:
        await here.publish("kv", payload)
    await here.close()
    assert await read_payloads(subscription, len(payloads)) == payloads


async def test_discovery_may_be_closed_before_the_plane(opened: Opened) -> None:
    discovery = MemoryDiscovery()
    here, there = opened(ZmqEventPlane(discovery)), opened(ZmqEventPlane(discovery))
    subscription = there.subscribe("kv")
    await meet(here, subscription)
    await discovery.close()
    await here.publish("kv", b"still")
    assert await read_payloads(subscription, 1) == [b"still"]

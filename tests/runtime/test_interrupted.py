"""What is cancelled at any of its steps leaves nothing: no key, no task, no request, and nothing that is in the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from dynamo._core.discovery import Lease
from dynamo._core.discovery.memory import MemoryDiscovery, MemoryLease
from dynamo._core.request_plane.inproc import InprocPlane
from dynamo.runtime import Client, DistributedRuntime

DEADLINE_S = 60.0
STEPS_MAX = 200


class Slow(MemoryDiscovery):
    """A discovery that is asked and that answers a turn of the loop later."""

    async def grant(self, ttl_s: float = 10.0) -> MemoryLease:
        await asyncio.sleep(0)
        return await super().grant(ttl_s)

    async def put(self, key: str, value: bytes, lease: Lease | None = None) -> None:
        await asyncio.sleep(0)
        await super().put(key, value, lease)
        await asyncio.sleep(0)

    async def delete(self, key: str) -> None:
        await asyncio.sleep(0)
        await super().delete(key)
        await asyncio.sleep(0)


class World:
    """A runtime that serves and one that calls, and how many of their handlers run."""

    def __init__(self, plane: str) -> None:
        self.discovery = Slow()
        self._plane: str | InprocPlane = InprocPlane() if plane == "inproc:" else plane
        self.running = 0
        self.tasks = asyncio.all_tasks()
        self.server, self.caller = self.runtime(), self.runtime()

    def runtime(self) -> DistributedRuntime:
        return DistributedRuntime(discovery=self.discovery, request_plane=self._plane)

    async def handler(self, request: object) -> AsyncIterator[int]:
        self.running += 1
        try:
            for number in range(3):
                yield number
                await asyncio.sleep(0)
        finally:
            self.running -= 1
            await asyncio.sleep(0)

    async def call(self) -> list[object]:
        client = await self.caller.client("ns.comp.ep")
        try:
            async with asyncio.timeout(DEADLINE_S):
                await client.wait_for_instances()
                return [item async for item in await client.generate(None, annotated=False)]
        finally:
            await client.close()


async def interrupted(work: Awaitable[object], steps: int) -> bool:
    """Whether it was cancelled after so many turns of the loop; False if it was done before."""
    task = asyncio.ensure_future(work)
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.wait([task])
    if not task.cancelled():
        task.result()
    return task.cancelled()


async def settled(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0)


Case = Callable[[World, int], Awaitable[bool]]


async def in_a_world(plane: str, case: Case, steps: int) -> bool:
    """Whether it was interrupted after so many steps; then all must be gone."""
    world = World(plane)
    async with world.server, world.caller:
        was_interrupted = await case(world, steps)
        await settled(lambda: world.running == 0)
    assert await world.discovery.get_prefix("") == {}
    await settled(lambda: asyncio.all_tasks() == world.tasks)
    for measured in world.server.measured().values():
        assert (measured.inflight, measured.listeners) == (0, [])
    return was_interrupted


async def at_each_step(plane: str, case: Case) -> None:
    """Interrupt after each number of steps, until there are no more."""
    for steps in range(STEPS_MAX):
        if not await in_a_world(plane, case, steps):
            return
    raise AssertionError("it is never done")


planes = pytest.mark.parametrize("plane", ["inproc:", "tcp:"])


@planes
async def test_serving(plane: str) -> None:
    async def case(world: World, steps: int) -> bool:
        was_interrupted = await interrupted(world.server.serve("ns.comp.ep", world.handler), steps)
        if was_interrupted:
            assert await world.discovery.get_prefix("v1/instances") == {}
            await world.server.serve("ns.comp.ep", world.handler)
        assert await world.call() == [0, 1, 2]
        return was_interrupted

    await at_each_step(plane, case)


@planes
async def test_closing_what_is_served(plane: str) -> None:
    async def case(world: World, steps: int) -> bool:
        served = await world.server.serve("ns.comp.ep", world.handler)
        stream = await (await world.caller.client("ns.comp.ep")).generate(None)
        was_interrupted = await interrupted(served.close(), steps)
        await stream.aclose()
        await served.close()  # which goes on, whoever waits for it
        await world.server.serve("ns.comp.ep", world.handler)
        assert await world.call() == [0, 1, 2]
        return was_interrupted

    await at_each_step(plane, case)


@planes
async def test_making_a_client(plane: str) -> None:
    async def case(world: World, steps: int) -> bool:
        await world.server.serve("ns.comp.ep", world.handler)
        was_interrupted = await interrupted(world.caller.client("ns.comp.ep"), steps)
        assert await world.call() == [0, 1, 2]
        return was_interrupted

    await at_each_step(plane, case)


@planes
async def test_calling_and_reading(plane: str) -> None:
    async def case(world: World, steps: int) -> bool:
        await world.server.serve("ns.comp.ep", world.handler)
        client = await world.caller.client("ns.comp.ep")

        async def call() -> None:
            async for _ in await client.generate(None):
                pass

        was_interrupted = await interrupted(call(), steps)
        await settled(lambda: world.running == 0 and not has_calls(client))
        assert not client.is_passed_over(client.instance_ids()[0])
        assert await world.call() == [0, 1, 2]
        return was_interrupted

    await at_each_step(plane, case)


@planes
async def test_joining(plane: str) -> None:
    async def case(world: World, steps: int) -> bool:
        runtime = world.runtime()

        async def join() -> None:
            await runtime.__aenter__()

        was_interrupted = await interrupted(join(), steps)
        if not was_interrupted:
            await runtime.close()
        return was_interrupted

    await at_each_step(plane, case)


@planes
async def test_leaving(plane: str) -> None:
    async def case(world: World, steps: int) -> bool:
        runtime = world.runtime()
        await runtime.__aenter__()
        await runtime.serve("ns.comp.other", world.handler, drain_s=0.0)
        stream = await (await world.caller.client("ns.comp.other")).generate(None)
        was_interrupted = await interrupted(runtime.close(), steps)
        await stream.aclose()
        await runtime.close()
        return was_interrupted

    await at_each_step(plane, case)


def has_calls(client: Client) -> bool:
    return bool(client._caller.watch._calls)

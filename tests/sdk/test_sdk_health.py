"""`@liveness` and `@readiness`: what the system server of a worker says, from its start to its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from tests.sdk.world import DEADLINE_S, World

from dynamo.runtime import DistributedRuntime
from dynamo.sdk import async_on_shutdown, async_on_start, dynamo_endpoint, readiness, service, service_of
from dynamo.sdk._hooks import liveness
from dynamo.sdk._runner import ServiceRunner

state: dict[str, object] = {}
reached, release = asyncio.Event(), asyncio.Event()


@pytest.fixture(autouse=True)
async def system_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYN_SYSTEM_PORT", "0")
    state.clear()
    state.update({"base": True, "sync": True, "ready": True})
    global reached, release
    reached, release = asyncio.Event(), asyncio.Event()


async def answers(runtime: DistributedRuntime) -> tuple[int, int]:
    """The statuses of `/live` and `/health`."""
    assert runtime.system_url is not None
    async with httpx.AsyncClient(base_url=runtime.system_url, timeout=DEADLINE_S) as client:
        return (await client.get("/live")).status_code, (await client.get("/health")).status_code


async def pause() -> None:
    reached.set()
    await asyncio.wait_for(release.wait(), DEADLINE_S)
    reached.clear()
    release.clear()


def said(name: str) -> object:
    answer = state[name]
    if isinstance(answer, Exception):
        raise answer
    return answer


class Base:
    @liveness
    async def base_lives(self) -> object:
        return said("base")


@service
class Probed(Base):
    @async_on_start
    async def load(self) -> None:
        await pause()

    @liveness()
    def lives(self) -> object:
        return said("sync")

    @readiness
    async def is_ready(self) -> object:
        return said("ready")

    @async_on_shutdown
    async def unload(self) -> None:
        await pause()

    @dynamo_endpoint()
    async def generate(self, request: str) -> AsyncIterator[str]:
        yield request


async def test_a_worker_is_ready_from_the_end_of_its_start_to_the_beginning_of_its_end(world: World) -> None:
    state.update({"base": False, "sync": False})  # nobody asks before the startup hooks are done
    runtime = await world.join()
    runner = ServiceRunner(service_of(Probed), runtime)
    start = asyncio.create_task(runner.start())
    await asyncio.wait_for(reached.wait(), DEADLINE_S)
    assert await answers(runtime) == (200, 503)
    state.update({"base": True, "sync": True})
    release.set()
    await asyncio.wait_for(start, DEADLINE_S)
    assert await answers(runtime) == (200, 200)
    state.update({"base": False, "sync": False})  # nor when it ends
    stop = asyncio.create_task(runner.stop())
    await asyncio.wait_for(reached.wait(), DEADLINE_S)
    assert await answers(runtime) == (200, 503)
    release.set()
    await asyncio.wait_for(stop, DEADLINE_S)


@pytest.mark.parametrize(
    ("changes", "statuses"),
    [
        ({}, (200, 200)),
        ({"base": 0}, (503, 200)),
        ({"sync": None}, (503, 200)),
        ({"base": LookupError("gone"), "sync": False}, (500, 200)),
        ({"ready": False}, (200, 503)),
        ({"ready": LookupError("gone")}, (200, 500)),
    ],
    ids=str,
)
async def test_all_hooks_must_be_true(world: World, changes: dict[str, object], statuses: tuple[int, int]) -> None:
    runtime = await world.join()
    runner = ServiceRunner(service_of(Probed), runtime)
    release.set()
    await runner.start()
    state.update(changes)
    assert await answers(runtime) == statuses
    release.set()
    await runner.stop()


async def test_without_hooks_a_worker_that_serves_is_well(world: World) -> None:
    @service
    class Plain:
        @dynamo_endpoint()
        async def generate(self, request: str) -> AsyncIterator[str]:
            yield request

    runtime = await world.join()
    runner = ServiceRunner(service_of(Plain), runtime)
    assert await answers(runtime) == (200, 503)
    await runner.start()
    assert await answers(runtime) == (200, 200)
    runtime.set_health_status(ready=False)
    assert await answers(runtime) == (200, 503)
    await runner.stop()
    assert await answers(runtime) == (200, 503)


async def test_a_service_without_endpoints_is_ready_when_it_has_started(world: World) -> None:
    @service
    class Silent:
        @async_on_start
        def start(self) -> None: ...

    runtime = await world.join()
    runner = ServiceRunner(service_of(Silent), runtime)
    await runner.start()
    assert await answers(runtime) == (200, 200)
    await runner.stop()

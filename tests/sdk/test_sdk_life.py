"""The life of a worker: what happens in which order, and how it ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable

import pytest
from tests.sdk.services import Worker
from tests.sdk.world import DEADLINE_S, World

from dynamo.sdk import (
    async_on_shutdown,
    async_on_start,
    depends,
    dynamo_context,
    dynamo_endpoint,
    on_shutdown,
    service,
    service_of,
)
from dynamo.sdk._runner import ServiceRunner

events: list[str] = []
started = asyncio.Event()
Configure = Callable[[dict[str, dict[str, object]]], None]


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Configure:
    return lambda config: monkeypatch.setenv("DYNAMO_SERVICE_CONFIG", json.dumps(config))


class BaseLife:
    @async_on_start
    async def base_start(self) -> None:
        events.append("base start")

    @async_on_shutdown
    async def base_end(self) -> None:
        events.append("base end")


@service(dynamo={"namespace": "lives"})
class Life(BaseLife):
    def __init__(self, name: str = "default") -> None:
        asyncio.get_running_loop()
        assert dynamo_context["service_name"] == "Life"
        assert dynamo_context["namespace"] == "lives"
        assert dynamo_context["worker_id"] == 1
        assert dynamo_context["component"].name == "Life"
        assert dynamo_context["endpoints"][0].lease_id() == dynamo_context["runtime"].lease.id
        events.append(f"built {name}")

    @async_on_start
    def second_start(self) -> None:
        events.append("start")

    @async_on_start()
    async def third_start(self) -> None:
        client = await dynamo_context["endpoints"][0].client()
        events.append(f"instances {client.instance_ids()}")

    @on_shutdown
    def end(self) -> None:
        events.append("end")

    @dynamo_endpoint()
    async def generate(self, request: str) -> AsyncIterator[str]:
        started.set()
        await asyncio.sleep(0.05)
        yield request
        events.append("answered")


async def test_a_worker_is_built_then_hooked_then_found(world: World, configure: Configure) -> None:
    events.clear()
    configure({"Life": {"name": "configured", "other": 1}})
    runner = await world.run(Life)
    assert events == ["built configured", "base start", "start", "instances []"]
    client = await world.client(Life, "generate")
    assert len(client.instance_ids()) == 1
    await runner.stop()


async def test_shutdown_hooks_run_once_after_the_last_answer(world: World) -> None:
    runner = await world.run(Life)
    started.clear()
    call = asyncio.create_task(world.call(Life, "generate", "a"))
    await asyncio.wait_for(started.wait(), DEADLINE_S)
    events.clear()
    await runner.stop()
    await runner.stop()
    assert events == ["answered", "end", "base end"]
    assert await call == ["a"]
    assert dynamo_context == {}


@service
class Failing(BaseLife):
    @async_on_start
    async def fail(self) -> None:
        raise OSError("no disk")

    @async_on_start
    async def never(self) -> None:
        events.append("never")

    @async_on_shutdown
    async def also_fails(self) -> None:
        events.append("fails")
        raise OSError("still no disk")

    @dynamo_endpoint()
    async def generate(self, request: str) -> str:
        return request


async def test_shutdown_hooks_run_when_a_startup_hook_fails_and_all_of_them(world: World) -> None:
    events.clear()
    runner = ServiceRunner(service_of(Failing), await world.join())
    with pytest.raises(OSError, match=r"^no disk"):
        await runner.start()
    with pytest.raises(OSError, match="still no disk"):
        await runner.stop()
    assert events == ["base start", "fails", "base end"]
    assert (await world.client(Failing, "generate")).instance_ids() == []


async def test_a_removed_edge_is_falsy_in_a_running_service(world: World) -> None:
    @service
    class Kept(Worker): ...

    @service
    class Removed(Worker): ...

    @service
    class Branching:
        kept = depends(Kept)
        removed = depends(Removed)

        @dynamo_endpoint()
        async def edges(self, request: str) -> list[bool]:
            return [bool(self.kept), bool(self.removed)]

    service_of(Branching).link(service_of(Kept))
    await world.run(Kept)
    await world.run(Branching)
    assert await world.call(Branching, "edges", "") == [[True, False]]


class Static:
    @staticmethod
    @async_on_start
    def under() -> None:
        events.append("under")

    @async_on_start
    @staticmethod
    def above() -> None:
        events.append("above")


async def test_a_hook_may_be_a_static_method(world: World) -> None:
    @service
    class WithStatic(Static): ...

    events.clear()
    await world.run(WithStatic)
    assert events == ["under", "above"]

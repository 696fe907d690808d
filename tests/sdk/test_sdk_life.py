"""The life of a worker: what happens in which order, and how it ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable

import pytest
from tests.sdk.services import Request, Worker
from tests.sdk.world import DEADLINE_S, World

from dynamo.runtime import DynamoError, EngineShutdown
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
from dynamo.sdk._context import server_context
from dynamo.sdk._runner import ServiceRunner

events: list[str] = []
started = asyncio.Event()
Configure = Callable[[dict[str, dict[str, object]]], None]


@pytest.fixture(autouse=True)
async def fresh() -> None:
    global started
    started = asyncio.Event()  # one belongs to the loop in which it is waited for
    events.clear()


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
        assert dynamo_context["worker_id"] == server_context.worker_index == 1
        assert server_context.service_name == "Life"
        assert dynamo_context["runner_map"] == {}
        assert "lease" not in dynamo_context
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
    assert not dynamo_context


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


def test_outside_a_service_the_context_says_that_it_is_empty() -> None:
    assert not dynamo_context
    with pytest.raises(RuntimeError, match="worker_index is known only in a process that runs a service"):
        _ = server_context.worker_index
    with pytest.raises(RuntimeError, match="service_name is known only"):
        _ = server_context.service_name


async def test_the_context_knows_the_services_that_run_elsewhere(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNAMO_RUNNER_MAP", json.dumps({"Far": "dynamo://ns/far"}))
    await world.run(Worker)
    assert dynamo_context["runner_map"] == {"Far": "dynamo://ns/far"}


# What user code may raise.

LEAVING = [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError("mine")]


class Raises:
    """Which part raises, and what: set by each test."""

    part = ""
    error: BaseException = SystemExit()

    def raise_in(self, part: str) -> None:
        events.append(part)
        if part == Raises.part:
            raise Raises.error


@service
class Leaving(Raises):
    def __init__(self) -> None:
        self.raise_in("constructor")

    @async_on_start
    def first(self) -> None:
        self.raise_in("start")

    @async_on_start
    async def second(self) -> None:
        self.raise_in("async start")

    @async_on_shutdown
    def third(self) -> None:
        self.raise_in("end")

    @async_on_shutdown
    async def fourth(self) -> None:
        self.raise_in("async end")

    @dynamo_endpoint()
    async def generate(self, request: str) -> str:
        return request


@pytest.mark.parametrize("error", LEAVING, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    ("part", "happens"),
    [
        ("constructor", ["constructor"]),
        ("start", ["constructor", "start", "async end", "end"]),
        ("async start", ["constructor", "start", "async start", "async end", "end"]),
    ],
)
async def test_whatever_a_start_raises_is_an_error_and_what_was_built_is_ended(
    world: World, error: BaseException, part: str, happens: list[str]
) -> None:
    events.clear()
    Raises.part, Raises.error = part, error
    runner = ServiceRunner(service_of(Leaving), await world.join())
    with pytest.raises(DynamoError, match=rf"raised {type(error).__name__}: .*test_sdk_life.py:\d+ in raise_in"):
        await runner.start()
    await runner.stop()
    await runner.stop()
    assert events == happens


@pytest.mark.parametrize("error", [*LEAVING, OSError("disk")], ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("part", ["end", "async end"])
async def test_no_shutdown_hook_keeps_another_from_running(world: World, error: BaseException, part: str) -> None:
    Raises.part, Raises.error = part, error
    runner = ServiceRunner(service_of(Leaving), await world.join())
    await runner.start()
    events.clear()
    with pytest.raises((DynamoError, OSError)):
        await runner.stop()
    assert events == ["async end", "end"]
    assert not dynamo_context


@service
class Slow:
    @async_on_start
    async def wait(self) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            events.append("cancelled")
            raise

    @async_on_shutdown
    async def end(self) -> None:
        events.append("end")

    @dynamo_endpoint()
    async def generate(self, request: str) -> AsyncIterator[str]:
        yield request


async def test_a_start_that_is_given_up_cancels_its_hook_and_runs_the_others(world: World) -> None:
    events.clear()
    started.clear()
    runner = ServiceRunner(service_of(Slow), await world.join())
    start = asyncio.create_task(runner.start())
    await asyncio.wait_for(started.wait(), DEADLINE_S)
    assert (await world.client(Slow, "generate")).instance_ids() == []
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    await runner.stop()
    assert events == ["cancelled", "end"]


@service
class Stuck:
    @async_on_shutdown
    async def end(self) -> None:
        events.append("end")

    @dynamo_endpoint()
    async def generate(self, request: str) -> AsyncIterator[str]:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            events.append("ended")
        yield request


async def test_a_drain_is_bounded_and_the_hooks_run_after_it(world: World) -> None:
    runner = await world.run(Stuck)
    started.clear()
    call = asyncio.create_task(world.call(Stuck, "generate", "a"))
    await asyncio.wait_for(started.wait(), DEADLINE_S)
    events.clear()
    await runner.stop(drain_s=0.01)
    assert events == ["ended", "end"]
    with pytest.raises(EngineShutdown):
        await call


async def test_a_stop_that_is_cancelled_runs_the_hooks_nevertheless(world: World) -> None:
    for drain_s in (0.2, 5.0, 50.0):
        runner = await world.run(Stuck)
        started.clear()
        call = asyncio.create_task(world.call(Stuck, "generate", "a"))
        await asyncio.wait_for(started.wait(), DEADLINE_S)
        events.clear()
        client = await world.client(Stuck, "generate")
        stop = asyncio.create_task(runner.stop(drain_s=drain_s))
        async with asyncio.timeout(DEADLINE_S):
            while client.instance_ids():
                await client.wait_for_change()
        if stop.cancel():
            break
        await asyncio.wait([call])  # everything stood still until it was over: it is tried with more time
    with pytest.raises(asyncio.CancelledError):
        await stop
    assert events == ["end"]
    with pytest.raises(EngineShutdown):
        await call


@service
class Waiting:
    @async_on_shutdown
    async def last(self) -> None:
        events.append("last")

    @async_on_shutdown
    async def first(self) -> None:
        started.set()
        await asyncio.Event().wait()


async def test_a_stop_that_is_cancelled_within_a_hook_runs_the_other_hooks(world: World) -> None:
    runner = await world.run(Waiting)
    stop = asyncio.create_task(runner.stop())
    await asyncio.wait_for(started.wait(), DEADLINE_S)
    stop.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stop
    assert events == ["last"]
    assert not dynamo_context


async def test_a_shutdown_hook_that_hangs_is_ended_and_told_of_and_the_others_run(world: World) -> None:
    runner = ServiceRunner(service_of(Waiting), await world.join(), shutdown_hook_s=0.01)
    await runner.start()
    with pytest.raises(DynamoError, match=r"it took more than 0\.01 s"):
        await runner.stop()
    assert events == ["last"]


# Dependencies.


@service
class Caller:
    worker = depends(Worker)

    @async_on_start
    async def ask(self) -> None:
        started.set()
        self.answer = await self.worker.unary(Request(text="early"))

    @dynamo_endpoint()
    async def generate(self, request: str) -> str:
        return self.answer.word


async def test_a_startup_hook_may_call_what_starts_later(world: World) -> None:
    started.clear()
    runner = ServiceRunner(service_of(Caller), await world.join())
    start = asyncio.create_task(runner.start())
    await asyncio.wait_for(started.wait(), DEADLINE_S)
    await world.run(Worker)
    await asyncio.wait_for(start, DEADLINE_S)
    assert await world.call(Caller, "generate", "") == ["early"]
    await runner.stop()


# A lease of its own.


@service(dynamo={"custom_lease": {"ttl": 2}})
class Leased:
    @dynamo_endpoint()
    async def generate(self, request: str) -> AsyncIterator[int]:
        started.set()
        await asyncio.sleep(0.05)
        yield dynamo_context["endpoints"][0].lease_id()


async def test_a_service_may_live_by_a_lease_of_its_own(world: World) -> None:
    runtime = await world.join()
    runner = ServiceRunner(service_of(Leased), runtime)
    await runner.start()
    lease = dynamo_context["lease"]
    client = await world.client(Leased, "generate")
    assert client.instance_ids() == [lease.id()]
    assert lease.id() != runtime.lease.id
    started.clear()
    call = asyncio.create_task(world.call(Leased, "generate", ""))
    await asyncio.wait_for(started.wait(), DEADLINE_S)

    lease.revoke()
    await asyncio.wait_for(runtime.wait_for_shutdown(), DEADLINE_S)  # which ends the worker's process
    async with asyncio.timeout(DEADLINE_S):
        while client.instance_ids():
            await client.wait_for_change()
    await runner.stop()
    assert await call == [lease.id()]
    assert not await lease.is_valid()


async def test_a_worker_that_withdraws_answers_who_has_not_heard_of_it(world: World) -> None:
    runtime = await world.join()
    runner = ServiceRunner(service_of(Leased), runtime)
    await runner.start()
    client = await world.client(Leased, "generate")
    started.clear()
    stream = await client.generate("", annotated=False)
    await asyncio.wait_for(started.wait(), DEADLINE_S)
    await runner.withdraw()
    async with asyncio.timeout(DEADLINE_S):
        while client.instance_ids():
            await client.wait_for_change()
    assert not (await runtime.health.is_ready()).is_good
    assert not runtime.primary_token().is_cancelled()
    assert len([item async for item in stream]) == 1
    await runner.stop()

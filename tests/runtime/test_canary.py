"""The canary: an idle endpoint shows that it still answers, and one that does not is not ready. On a virtual clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest
from tests.virtual_time import in_virtual_time

from dynamo._core.errors import ConfigError
from dynamo.runtime import DistributedRuntime
from dynamo.runtime._canary import CanarySettings, canary_settings

DEADLINE_S = 60.0


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYN_CANARY_WAIT_TIME", "0.1")
    monkeypatch.setenv("DYN_HEALTH_CHECK_REQUEST_TIMEOUT", "0.1")


@asynccontextmanager
async def one_runtime() -> AsyncIterator[DistributedRuntime]:
    async with asyncio.timeout(DEADLINE_S), DistributedRuntime(discovery="memory:", request_plane="inproc:") as runtime:
        yield runtime


class Engine:
    """Answers unless it is stuck."""

    def __init__(self) -> None:
        self.stuck = False
        self.asked: list[object] = []
        self.closed = 0

    async def serve(self, request: object) -> AsyncIterator[object]:
        self.asked.append(request)
        try:
            if self.stuck:
                await asyncio.Event().wait()
            yield "ok"
        finally:
            self.closed += 1


async def until_ready(runtime: DistributedRuntime, ready: bool) -> str:
    """Wait until the process is ready, or not. Return why not."""
    while (verdict := await runtime.health.is_ready()).is_good is not ready:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    return verdict.reason


@in_virtual_time(one_runtime)
async def test_an_idle_endpoint_is_asked_what_its_owner_chose(runtime: DistributedRuntime) -> None:
    engine = Engine()
    endpoint = runtime.endpoint("ns.comp.ep")
    await endpoint.serve(engine.serve, health_check_payload={"token_ids": [1]})
    while len(engine.asked) < 2:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert engine.asked[0] == {"token_ids": [1]}
    assert runtime.measure(endpoint.id).canaries >= 2
    assert runtime.measure(endpoint.id).requests == 0, "it is no request of a caller"
    assert (await runtime.health.is_ready()).is_good


@in_virtual_time(one_runtime)
async def test_an_endpoint_that_does_not_answer_is_not_ready_until_it_does(runtime: DistributedRuntime) -> None:
    engine = Engine()
    endpoint = runtime.endpoint("ns.comp.ep")
    await endpoint.serve(engine.serve, health_check_payload="hello")
    engine.stuck = True
    assert await until_ready(runtime, ready=False) == "the canary of ep gave no answer within 0.1 s"
    assert runtime.health.endpoints() == {"ep": False}
    assert (await runtime.health.is_live()).is_good
    assert runtime.measure(endpoint.id).canary_failures >= 1
    engine.stuck = False
    await until_ready(runtime, ready=True)
    assert runtime.health.endpoints() == {"ep": True}


@in_virtual_time(one_runtime)
async def test_an_endpoint_that_fails_is_not_ready(runtime: DistributedRuntime) -> None:
    async def fails(request: object) -> AsyncIterator[object]:
        raise SystemExit("out of memory")
        yield

    await runtime.endpoint("ns.comp.ep").serve(fails, health_check_payload="hello")
    assert "out of memory" in await until_ready(runtime, ready=False)


@in_virtual_time(one_runtime)
async def test_an_item_for_a_caller_shows_as_much_as_an_answer_to_the_canary(runtime: DistributedRuntime) -> None:
    async def picky(request: object) -> AsyncIterator[object]:
        if request == "canary":
            await asyncio.Event().wait()
        yield "ok"

    endpoint = runtime.endpoint("ns.comp.ep")
    await endpoint.serve(picky, health_check_payload="canary")
    await until_ready(runtime, ready=False)
    client = await endpoint.client()
    assert await anext(await client.generate("x", annotated=False)) == "ok"
    await until_ready(runtime, ready=True)


@in_virtual_time(one_runtime)
async def test_a_busy_endpoint_is_not_asked(runtime: DistributedRuntime) -> None:
    engine = Engine()
    endpoint = runtime.endpoint("ns.comp.ep")
    await endpoint.serve(engine.serve, health_check_payload="canary")
    client = await endpoint.client()
    loop = asyncio.get_running_loop()
    busy_until = loop.time() + 0.5
    while loop.time() < busy_until:
        await anext(await client.generate("x"))
        await asyncio.sleep(0.005)
    assert runtime.measure(endpoint.id).requests > 10
    assert "canary" not in engine.asked


@in_virtual_time(one_runtime)
async def test_a_canary_that_does_not_end_is_the_only_one(runtime: DistributedRuntime) -> None:
    asked, go_on = 0, asyncio.Event()

    async def deaf(request: object) -> AsyncIterator[object]:
        nonlocal asked
        asked += 1
        while not go_on.is_set():
            try:
                await go_on.wait()
            except asyncio.CancelledError:
                continue
        yield "ok"

    endpoint = runtime.endpoint("ns.comp.ep")
    await endpoint.serve(deaf, health_check_payload="canary")
    await until_ready(runtime, ready=False)
    while runtime.measure(endpoint.id).canary_failures < 2:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert asked == 1
    go_on.set()
    await until_ready(runtime, ready=True)


@in_virtual_time(one_runtime)
async def test_no_canary_outlives_its_endpoint(runtime: DistributedRuntime) -> None:
    engine = Engine()
    engine.stuck = True
    before = asyncio.all_tasks()
    served = await runtime.endpoint("ns.comp.ep").serve(engine.serve, health_check_payload="canary")
    while not engine.asked:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await served.close(drain_s=0)
    assert asyncio.all_tasks() == before
    assert engine.closed == len(engine.asked)


@in_virtual_time(one_runtime)
async def test_an_endpoint_that_drains_is_not_asked(runtime: DistributedRuntime) -> None:
    asked: list[object] = []
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def serve(request: object) -> AsyncIterator[object]:
        asked.append(request)
        if request == "slow":
            begun.set()
            await go_on.wait()
        yield "ok"

    endpoint = runtime.endpoint("ns.comp.ep")
    served = await endpoint.serve(serve, health_check_payload="canary")
    client = await endpoint.client()
    slow = await client.generate("slow", annotated=False)
    await begun.wait()
    while "canary" not in asked:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    closing = asyncio.create_task(served.close())
    await client.wait_for_change()
    asked.clear()
    await asyncio.sleep(0.5)  # five times as long as it may be idle
    assert asked == []
    go_on.set()
    assert await anext(slow) == "ok"
    await closing


@in_virtual_time(one_runtime)
async def test_without_a_payload_or_when_it_is_turned_off_there_is_none(
    runtime: DistributedRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = asyncio.all_tasks()
    await runtime.endpoint("ns.comp.a").serve(Engine().serve)
    monkeypatch.setenv("DYN_HEALTH_CHECK_ENABLED", "false")
    await runtime.endpoint("ns.comp.b").serve(Engine().serve, health_check_payload="canary")
    assert asyncio.all_tasks() == before


def test_without_variables_an_endpoint_is_asked_after_10_s_and_has_3_s() -> None:
    assert canary_settings({}) == CanarySettings(wait_s=10.0, timeout_s=3.0)


@pytest.mark.parametrize(
    ("environment", "variable"),
    [
        ({"DYN_CANARY_WAIT_TIME": "0"}, "DYN_CANARY_WAIT_TIME='0'"),
        ({"DYN_HEALTH_CHECK_REQUEST_TIMEOUT": "nan"}, "DYN_HEALTH_CHECK_REQUEST_TIMEOUT='nan'"),
        ({"DYN_HEALTH_CHECK_ENABLED": "perhaps"}, "DYN_HEALTH_CHECK_ENABLED='perhaps'"),
    ],
)
def test_a_wrong_variable_is_named(environment: Mapping[str, str], variable: str) -> None:
    with pytest.raises(ConfigError, match=variable):
        canary_settings(environment)

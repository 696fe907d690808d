"""The life of a worker as a process: its hooks run once however it ends, and its system server tells how it is."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
from tests.cli.serving import DEADLINE_S, Serving, environment_of
from tests.free_port import free_port

from dynamo.runtime import DistributedRuntime

GRAPH = """
import asyncio, os
from dynamo.sdk import api, async_on_shutdown, async_on_start, depends, dynamo_context, dynamo_endpoint, service
from dynamo.sdk import liveness, readiness

RAISES = os.environ.get("RAISES", "")

def say(what):
    print(what, flush=True)
    if RAISES.startswith(what + "="):
        raise {"SystemExit": SystemExit(0), "KeyboardInterrupt": KeyboardInterrupt(), "OSError": OSError("no disk"),
               "CancelledError": asyncio.CancelledError()}[RAISES.split("=")[1]]

class Base:
    @async_on_start
    def base_start(self):
        say("base start")

    @async_on_shutdown
    async def base_end(self):
        say("base end")

@service(dynamo={"namespace": "lives"})
class Worker(Base):
    def __init__(self):
        say("constructor")

    @async_on_start
    async def own_start(self):
        say("own start")
        if os.environ.get("HANGS"):
            await asyncio.Event().wait()

    @async_on_start
    def last_start(self):
        say("last start")

    @async_on_shutdown
    def own_end(self):
        say("own end")

    @liveness
    def lives(self):
        return not os.path.exists("dead")

    @readiness
    async def is_ready(self):
        return not os.path.exists("busy")

    @dynamo_endpoint()
    async def slow(self, words: int):
        for number in range(words):
            yield number
            await asyncio.sleep(0.1)
            while os.path.exists("held"):
                await asyncio.sleep(0.02)
        say("answered")

    @dynamo_endpoint()
    async def shut_down(self, request: str):
        dynamo_context["runtime"].shutdown()
        yield "bye"

@service(dynamo={"custom_lease": {"ttl": 1}})
class Leased(Worker):
    @dynamo_endpoint()
    async def revoke(self, request: str):
        dynamo_context["lease"].revoke()
        await asyncio.sleep(0.2)
        yield "revoked"

@service
class Web(Base):
    worker = depends(Worker)

    @api
    async def count(self, words: int):
        async for number in self.worker.slow(words):
            yield str(number)
"""

START = ["constructor", "base start", "own start", "last start"]
END = ["own end", "base end"]
Start = Callable[..., Awaitable[Serving]]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return environment_of(tmp_path / "discovery")


@pytest.fixture
async def start(tmp_path: Path, environment: dict[str, str]) -> AsyncIterator[Start]:
    (tmp_path / "graph.py").write_text(GRAPH)
    async with AsyncExitStack() as stack:

        async def start(entry: str, *arguments: str, **variables: str) -> Serving:
            return await stack.enter_async_context(
                await Serving.start(f"graph:{entry}", *arguments, cwd=tmp_path, environment=environment | variables)
            )

        yield start


def said(serving: Serving, label: str) -> list[str]:
    """What a worker has printed, without its log."""
    prefix = f"[{label}] "
    return [line.removeprefix(prefix) for line in serving.out if line.startswith(prefix)]


async def call(environment: dict[str, str], endpoint: str, request: object) -> list[object]:
    async with (
        asyncio.timeout(DEADLINE_S),
        DistributedRuntime(discovery=environment["DYN_DISCOVERY"], request_plane="tcp:") as runtime,
    ):
        client = await runtime.endpoint(endpoint).client()
        return [item async for item in await client.generate(request, annotated=False)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_lets_streams_end_and_runs_each_shutdown_hook_once(
    start: Start, environment: dict[str, str], number: signal.Signals
) -> None:
    serving = await start("Worker")
    await serving.ready()
    async with DistributedRuntime(discovery=environment["DYN_DISCOVERY"], request_plane="tcp:") as runtime:
        client = await runtime.endpoint("lives.Worker.slow").client()
        stream = await client.generate(5, annotated=False)
        assert await anext(stream) == 0
        serving.process.send_signal(number)
        assert [item async for item in stream] == [1, 2, 3, 4]
    assert await serving.exit_status() == 0
    assert said(serving, "Worker:1") == [*START, "answered", *END]


async def test_an_http_service_has_the_same_life(start: Start) -> None:
    serving = await start("Web", "--port", "0")
    url = await serving.ready()
    async with (
        httpx.AsyncClient(base_url=url, timeout=DEADLINE_S) as client,
        client.stream("POST", "/count", params={"words": 4}) as response,
    ):
        chunks = response.aiter_text()
        assert await anext(chunks) == "0"
        serving.interrupt()
        assert "".join([chunk async for chunk in chunks]) == "123"
    assert await serving.exit_status() == 0
    assert said(serving, "Web:1") == ["base start", "base end"]
    assert said(serving, "Worker:1") == [*START, "answered", *END]


async def test_a_shutdown_that_user_code_asks_for_is_an_orderly_end(start: Start, environment: dict[str, str]) -> None:
    serving = await start("Worker", "--no-restart")
    await serving.ready()
    assert await call(environment, "lives.Worker.shut_down", "") == ["bye"]
    await serving.exit_status()
    assert said(serving, "Worker:1") == [*START, *END]
    assert "ended with status 0" in serving.text


async def test_a_revoked_lease_is_an_orderly_end(start: Start, environment: dict[str, str]) -> None:
    serving = await start("Leased", "--no-restart")
    await serving.ready()
    assert await call(environment, "default.Leased.revoke", "") == ["revoked"]
    await serving.exit_status()
    assert said(serving, "Leased:1") == [*START, *END]
    assert "ended with status 0" in serving.text


@pytest.mark.parametrize("error", ["OSError", "SystemExit", "KeyboardInterrupt", "CancelledError"])
@pytest.mark.parametrize(
    ("part", "happens"),
    [
        ("constructor", ["constructor"]),
        ("own start", ["constructor", "base start", "own start", *END]),
        ("last start", [*START, *END]),
    ],
)
async def test_a_start_that_fails_ends_what_was_built_and_says_why(
    start: Start, part: str, error: str, happens: list[str]
) -> None:
    serving = await start("Worker", RAISES=f"{part}={error}")
    assert await serving.exit_status() == 1
    assert said(serving, "Worker:1") == happens
    [line] = [line for line in serving.err if "Worker:1 failed to start" in line]
    assert error in line
    assert "graph.py:" in line


@pytest.mark.parametrize("error", ["OSError", "SystemExit", "CancelledError"])
async def test_a_shutdown_hook_that_fails_keeps_no_other_from_running(start: Start, error: str) -> None:
    serving = await start("Worker", RAISES=f"own end={error}")
    await serving.ready()
    serving.interrupt()
    assert await serving.exit_status() == 1
    assert said(serving, "Worker:1") == [*START, *END]
    assert "the shutdown hook Worker.own_end failed: " in serving.text
    assert error in serving.text


async def test_an_interrupted_start_ends_what_was_built(start: Start) -> None:
    serving = await start("Worker", HANGS="1")
    await serving.line("own start")
    serving.interrupt()
    await serving.exit_status()
    assert said(serving, "Worker:1") == ["constructor", "base start", "own start", *END]


# The system server.


async def test_each_worker_has_a_system_server_of_its_own(start: Start, tmp_path: Path) -> None:
    serving = await start("Web", "--port", "0", DYN_SYSTEM_PORT="0")
    await serving.ready()
    urls = [(await serving.line(rf"\[{label}\].*system server at (http://\S+)"))[1] for label in ("Web:1", "Worker:1")]
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client:
        endpoints = [(await client.get(f"{url}/health")).json()["endpoints"] for url in urls]
        assert endpoints == [{}, {"slow": "ready", "shut_down": "ready"}]
        (tmp_path / "dead").touch()
        (tmp_path / "busy").touch()
        assert [(await client.get(f"{urls[1]}{path}")).status_code for path in ("/live", "/health")] == [503, 503]
        assert "dynamo_component_requests_total" in (await client.get(f"{urls[1]}/metrics")).text


async def test_a_process_that_drains_is_alive_and_not_ready(
    start: Start, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "held").touch()
    serving = await start("Worker", DYN_SYSTEM_PORT="0")
    await serving.ready()
    url = (await serving.line(r"system server at (http://\S+)"))[1]
    async with (
        httpx.AsyncClient(base_url=url, timeout=DEADLINE_S) as http,
        DistributedRuntime(discovery=environment["DYN_DISCOVERY"], request_plane="tcp:") as runtime,
    ):
        client = await runtime.endpoint("lives.Worker.slow").client()
        stream = await client.generate(3, annotated=False)
        assert await anext(stream) == 0
        serving.interrupt()
        async with asyncio.timeout(DEADLINE_S):
            while client.instance_ids():
                await client.wait_for_change()
        assert (await http.get("/live")).status_code == 200
        health = await http.get("/health")
        assert (health.status_code, health.json()["endpoints"]["slow"]) == (503, "notready")
        (tmp_path / "held").unlink()
        assert [item async for item in stream] == [1, 2]
    assert await serving.exit_status() == 0


async def test_one_port_for_several_processes_says_what_to_do(start: Start, unused_port: int) -> None:
    serving = await start("Web", "--port", "0", DYN_SYSTEM_PORT=str(unused_port))
    assert await serving.exit_status() == 1
    [line] = [line for line in serving.err if "failed to start" in line]
    assert f"127.0.0.1:{unused_port}: Address already in use" in line
    assert "set DYN_SYSTEM_PORT=0" in line


async def test_a_system_server_that_others_reach_needs_permission(start: Start) -> None:
    serving = await start("Worker", DYN_SYSTEM_PORT="0", DYN_SYSTEM_HOST="0.0.0.0")
    assert await serving.exit_status() == 1
    assert "DYN_INSECURE=true" in serving.text


@pytest.fixture
def unused_port() -> int:
    return free_port()

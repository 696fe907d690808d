"""What people rely on who bring services that they have: what their code finds, and what may call it how."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from pydantic import BaseModel
from tests.sdk.world import DEADLINE_S, World

from dynamo._internal import Component
from dynamo.runtime import Client, DistributedRuntime
from dynamo.sdk import (
    DynamoTransport,
    api,
    async_on_start,
    depends,
    dynamo_context,
    dynamo_endpoint,
    endpoint,
    service,
    service_of,
)
from dynamo.sdk._runner import ServiceRunner


class Text(BaseModel):
    text: str


@service(dynamo={"namespace": "kept"})
class Echo:
    @dynamo_endpoint()
    async def generate(self, request: Text) -> AsyncIterator[str]:
        yield request.text


@pytest.fixture
async def web(world: World) -> AsyncIterator[httpx.AsyncClient]:
    """A client of `Web`, which runs with the service that it calls."""
    await world.run(Echo)
    with socket.create_server(("127.0.0.1", 0)) as bound:
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        runner = ServiceRunner(service_of(Web), await world.join(), http_socket=bound)
        try:
            await runner.start()
            async with httpx.AsyncClient(base_url=url, timeout=DEADLINE_S) as client:
                yield client
        finally:
            await runner.stop()


# A service that serves HTTP is a service like any other.

found: dict[str, object] = {}


@service(dynamo={"namespace": "kept"})
class Web:
    echo = depends(Echo)

    def __init__(self) -> None:
        found["loop"] = asyncio.get_running_loop()
        found.update(dynamo_context)

    @async_on_start
    async def call_early(self) -> None:
        found["early"] = [item async for item in self.echo.generate(Text(text="early"))]

    @api(http_method="put")
    async def put(self, request: Text) -> str:
        return request.text

    @api("v1/named")
    async def named(self, request: Text) -> str:
        return request.text

    @endpoint(transports=[DynamoTransport.HTTP], http_method="delete")
    async def gone(self) -> str:
        return "gone"

    @dynamo_endpoint()
    async def on_the_plane(self, request: Text) -> str:
        return request.text


@pytest.mark.usefixtures("web")
async def test_a_service_that_serves_http_finds_the_same_context_in_its_constructor(world: World) -> None:
    assert found["loop"] is asyncio.get_running_loop()
    assert isinstance(found["runtime"], DistributedRuntime)
    assert isinstance(found["component"], Component)
    assert (found["namespace"], found["service_name"], found["worker_id"]) == ("kept", "Web", 1)
    assert found["early"] == ["early"]
    assert await world.call(Web, "on_the_plane", {"text": "a"}) == ["a"]


@pytest.mark.parametrize(
    ("method", "path", "answer"),
    [
        ("PUT", "/put", '"ab"'),
        ("POST", "/v1/named", '"ab"'),
        ("DELETE", "/gone", '"gone"'),
    ],
)
async def test_every_form_of_an_http_endpoint_answers(
    web: httpx.AsyncClient, method: str, path: str, answer: str
) -> None:
    response = await web.request(method, path, json={"text": "ab"})
    assert (response.status_code, response.text) == (200, answer)


# Endpoints.


@service
class Forms:
    @endpoint
    async def a(self, request: str) -> str:
        return "a"

    @endpoint()
    async def b(self, request: str) -> str:
        return "b"

    @dynamo_endpoint
    async def c(self, request: str) -> str:
        return "c"

    @dynamo_endpoint()
    async def d(self, request: str) -> str:
        return "d"

    @dynamo_endpoint("z/e")
    async def e(self, request: str) -> str:
        return "e"

    @endpoint(name="f")
    async def other(self, request: str) -> str:
        return "f"

    @dynamo_endpoint()
    async def does_nothing_yet(self, request: Text) -> AsyncIterator[Text]:  # type: ignore[empty-body]
        pass


async def test_every_endpoint_of_a_service_is_served_however_it_is_marked(world: World) -> None:
    await world.run(Forms)
    answers = [await world.call(Forms, name, "") for name in ("a", "b", "c", "d", "z/e", "f")]
    assert answers == [["a"], ["b"], ["c"], ["d"], ["e"], ["f"]]
    assert [served.id.endpoint for served in dynamo_context["endpoints"]] == [
        *("a", "b", "c", "d", "z/e", "f"),
        "does_nothing_yet",
    ]


async def test_a_skeleton_that_does_nothing_yet_can_be_served_and_called(world: World) -> None:
    await world.run(Forms)
    assert await world.call(Forms, "does_nothing_yet", {"text": "a"}) == [None]


@service
class Meeting:
    """Its plain method waits for its async one, which only a loop that is free can run."""

    def __init__(self) -> None:
        self.met = threading.Event()

    @dynamo_endpoint()
    def waits(self, request: str) -> bool:
        return self.met.wait(DEADLINE_S)

    @dynamo_endpoint()
    def waits_and_yields(self, request: str) -> Iterator[bool]:
        yield self.met.wait(DEADLINE_S)

    @dynamo_endpoint()
    async def meet(self, request: str) -> None:
        self.met.set()


@pytest.mark.parametrize("name", ["waits", "waits_and_yields"])
async def test_a_plain_method_does_not_hold_up_the_others(world: World, name: str) -> None:
    await world.run(Meeting)
    waiting = asyncio.create_task(world.call(Meeting, name, ""))
    await asyncio.sleep(0)
    await world.call(Meeting, "meet", "")
    assert await waiting == [True]


@service
class Which:
    @dynamo_endpoint()
    async def who(self, request: str) -> int:
        return id(self)


@service
class Asks:
    which = depends(Which)

    @dynamo_endpoint()
    async def ask(self, request: int) -> list[int]:
        return [await self.which.who("") for _ in range(request)]

    @dynamo_endpoint()
    async def directly(self, request: str) -> list[object]:
        client = await Asks.which.get_endpoint("who")
        assert isinstance(client, Client)
        return [await (await client.direct("", one, annotated=False)).batch() for one in client.instance_ids()]


async def test_calls_go_to_all_workers_of_a_service_and_directly_to_each(world: World) -> None:
    for _ in range(3):
        await world.run(Which)
    await world.run(Asks)
    [answers] = await world.call(Asks, "ask", 100)
    assert isinstance(answers, list)
    assert len(set(answers)) == 3
    assert answers != sorted(answers)
    [each] = await world.call(Asks, "directly", "")
    assert isinstance(each, list)
    assert {worker for [worker] in each} == set(answers)


# Dependencies in the constructor, and a service that is no component.


@service
class Early:
    echo = depends(Echo)
    which = depends(Which)

    def __init__(self) -> None:
        self.generate = self.echo.generate
        self.has_which = bool(self.which)

    @dynamo_endpoint()
    async def relay(self, request: Text) -> AsyncIterator[object]:
        yield self.has_which
        async for item in self.generate(request):
            yield item


async def test_a_constructor_takes_what_it_needs_of_its_dependencies(world: World) -> None:
    service_of(Early).link(Echo)
    await world.run(Echo)
    await world.run(Early)
    assert await world.call(Early, "relay", {"text": "a"}) == [False, "a"]


@service(dynamo={"enabled": False})
class Apart:
    echo = depends(Echo)

    @async_on_start
    async def call(self) -> None:
        found["apart"] = [item async for item in self.echo.generate(Text(text="apart"))]

    @dynamo_endpoint()
    async def never_served(self, request: str) -> str:
        return request


async def test_a_disabled_service_runs_and_calls_but_cannot_be_found(world: World) -> None:
    await world.run(Echo)
    await world.run(Apart)
    assert found["apart"] == ["apart"]
    assert "component" not in dynamo_context
    assert dynamo_context["endpoints"] == []
    instances = await dynamo_context["runtime"].discovery.get_prefix("v1/instances/")
    assert len(instances) == 1
    assert "Echo" in str(instances)


# Pieces.


def test_the_image_is_named_by_the_environment() -> None:
    def image(**variables: str) -> str:
        code = "from dynamo.sdk import DYNAMO_IMAGE; from dynamo.sdk.lib import image; print(DYNAMO_IMAGE)"
        environment = {name: value for name, value in os.environ.items() if name != "DYNAMO_IMAGE"} | variables
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
        return done.stdout.strip()

    assert image() == "dynamo:latest-vllm"
    assert image(DYNAMO_IMAGE="mine:1") == "mine:1"

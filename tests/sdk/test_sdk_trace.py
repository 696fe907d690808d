"""The trace of a request goes with it from service to service, a span for each."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import httpx
import pytest
from tests.sdk.world import DEADLINE_S, World

from dynamo._core.context import Context, current_context
from dynamo._core.trace import Trace
from dynamo.sdk import api, depends, dynamo_endpoint, service, service_of
from dynamo.sdk._runner import ServiceRunner

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@service
class Last:
    @dynamo_endpoint()
    async def look(self, request: str) -> AsyncIterator[dict[str, str | None]]:
        yield _spoken(_current().trace)

    @dynamo_endpoint()
    def look_from_a_thread(self, request: str) -> dict[str, str | None]:
        return _spoken(_current().trace)


@service
class Middle:
    last = depends(Last)

    @dynamo_endpoint()
    async def look(self, request: str) -> AsyncIterator[list[object]]:
        below: list[object] = [item async for item in self.last.look("")]
        below.append(await self.last.look_from_a_thread(""))  # type: ignore[misc]
        yield [_spoken(_current().trace), *below]


@service
class Front:
    middle = depends(Middle)

    @api(http_method="GET")
    async def look(self) -> list[object]:
        async for item in self.middle.look(""):
            return [_spoken(_current().trace), *item]
        return []


def _spoken(trace: Trace) -> dict[str, str | None]:
    return {"trace": trace.trace_id, "span": trace.span_id, "parent": trace.parent_id, "state": trace.state}


def _current() -> Context:
    context = current_context.get()
    assert context is not None
    return context


@pytest.fixture
async def client(world: World) -> AsyncIterator[httpx.AsyncClient]:
    async with AsyncExitStack() as stack:
        for decorated in (Last, Middle):
            await world.run(decorated)
        bound = socket.socket()
        bound.bind(("127.0.0.1", 0))
        runner = ServiceRunner(service_of(Front), await world.join(), http_socket=bound)
        stack.push_async_callback(runner.stop)
        await runner.start()
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        yield await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=DEADLINE_S))


async def test_every_service_on_the_way_is_a_span_below_the_one_that_called_it(client: httpx.AsyncClient) -> None:
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "a=1,b=2"}
    front, middle, last, thread = (await client.get("/look", headers=headers)).json()
    assert {one["trace"] for one in (front, middle, last, thread)} == {TRACE}
    assert {one["state"] for one in (front, middle, last, thread)} == {"a=1,b=2"}
    assert [front["parent"], middle["parent"]] == [SPAN, front["span"]]
    assert last["parent"] == thread["parent"] == middle["span"]
    assert len({SPAN, *(one["span"] for one in (front, middle, last, thread))}) == 5


async def test_a_request_without_a_trace_gets_one_that_is_the_same_everywhere(client: httpx.AsyncClient) -> None:
    response = await client.get("/look", headers={"traceparent": "hostile"})
    spoken = response.json()
    assert {one["trace"] for one in spoken} == {response.headers["x-request-id"]}
    assert [one["parent"] for one in spoken[:2]] == [None, spoken[0]["span"]]


async def test_a_call_from_nowhere_has_one_trace_too_though_nobody_asked_before(world: World) -> None:
    for decorated in (Last, Middle):
        await world.run(decorated)
    [spoken] = await world.call(Middle, "look", "")
    assert isinstance(spoken, list)
    assert len(spoken) == 3
    assert len({one["trace"] for one in spoken}) == 1

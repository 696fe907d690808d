"""Endpoints with one response to a request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from dynamo.runtime import DistributedRuntime, DynamoError, UnaryClient, serve_unary_endpoint

DEADLINE_S = 60.0


@pytest.fixture
async def runtime() -> AsyncIterator[DistributedRuntime]:
    async with DistributedRuntime(discovery="memory:", request_plane="inproc:") as runtime:
        yield runtime


async def unary(runtime: DistributedRuntime) -> UnaryClient:
    client = await runtime.client("ns.comp.ep")
    await client.wait_for_instances(timeout_s=DEADLINE_S)
    return UnaryClient(client)


async def test_the_one_response_is_returned(runtime: DistributedRuntime) -> None:
    async def double(request: int) -> int:
        return 2 * request

    serving = asyncio.create_task(serve_unary_endpoint(runtime.endpoint("ns.comp.ep"), double))
    assert await (await unary(runtime)).complete(21) == 42
    runtime.shutdown()
    await asyncio.wait_for(serving, DEADLINE_S)


@pytest.mark.parametrize(("items", "number"), [(0, "no response"), (2, "more than one")])
async def test_another_number_of_responses_is_an_error(runtime: DistributedRuntime, items: int, number: str) -> None:
    async def several(request: object) -> AsyncIterator[int]:
        for item in range(items):
            yield item

    await runtime.serve("ns.comp.ep", several)
    with pytest.raises(DynamoError, match=f"ns/comp/ep gave {number}, and one was expected"):
        await (await unary(runtime)).complete(None)


async def test_an_endless_stream_is_closed_after_its_second_item(runtime: DistributedRuntime) -> None:
    closed = asyncio.Event()

    async def endless(request: object) -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    await runtime.serve("ns.comp.ep", endless)
    with pytest.raises(DynamoError, match="more than one"):
        await (await unary(runtime)).complete(None)
    await asyncio.wait_for(closed.wait(), DEADLINE_S)


async def test_a_handler_that_yields_is_refused(runtime: DistributedRuntime) -> None:
    async def several(request: object) -> AsyncIterator[int]:
        yield 1

    with pytest.raises(TypeError, match="give a function that returns one response"):
        await serve_unary_endpoint(runtime.endpoint("ns.comp.ep"), several)

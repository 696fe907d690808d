"""`runtime.serve` and `runtime.client`: what most programs need, without an `Endpoint` in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from dynamo._core.context import Context
from dynamo.runtime import DeadlineExceeded, DistributedRuntime, InvalidArgument, NoInstances, ServedEndpoint

PATH = "shop.words.count"


class Words(msgspec.Struct):
    text: str


async def count(request: str) -> int:
    return len(request.split())


async def echo_id(request: object, context: Context) -> str:
    return f"{context.request_id} {context.metadata['from']}"


@pytest.fixture
async def runtime() -> AsyncIterator[DistributedRuntime]:
    async with DistributedRuntime(discovery="memory:", request_plane="inproc:") as runtime:
        yield runtime


async def answer(runtime: DistributedRuntime, request: object, context: Context | None = None) -> object:
    client = await runtime.client(PATH)
    [item] = [item async for item in await client.generate(request, annotated=False, context=context)]
    return item


async def test_an_endpoint_is_served_and_called_by_its_path(runtime: DistributedRuntime) -> None:
    served = await runtime.serve(PATH, count)
    assert isinstance(served, ServedEndpoint)
    assert await answer(runtime, "one two") == 2


async def test_the_same_endpoint_is_what_the_longer_way_gives(runtime: DistributedRuntime) -> None:
    await runtime.serve(f"dyn://{PATH}", count)
    client = await runtime.namespace("shop").component("words").endpoint("count").client()
    assert [item async for item in await client.round_robin("one two three", annotated=False)] == [3]


async def test_closing_what_is_served_takes_it_away(runtime: DistributedRuntime) -> None:
    served = await runtime.serve(PATH, count)
    await served.close(drain_s=0)
    with pytest.raises(NoInstances):
        await answer(runtime, "one")


async def test_what_serve_of_an_endpoint_takes_is_taken_here_too(runtime: DistributedRuntime) -> None:
    def typed(request: Words) -> str:
        return f"{type(request).__name__} {request.text}"

    lease = await runtime.grant_custom_lease(10)
    served = await runtime.serve(
        PATH, typed, request_type=Words, lease=lease, max_concurrent_requests=1, max_queued_requests=0, drain_s=1.0
    )
    assert served.instance_id == lease.id()
    assert await answer(runtime, {"text": "one"}) == "Words one"


async def test_a_context_to_call_with_needs_no_import(runtime: DistributedRuntime) -> None:
    await runtime.serve(PATH, echo_id)
    assert await answer(runtime, None, runtime.context("mine", {"from": "a test"})) == "mine a test"


async def test_a_request_is_over_when_its_time_is_up(runtime: DistributedRuntime) -> None:
    async def never(request: object) -> None:
        await asyncio.Event().wait()

    await runtime.serve(PATH, never)
    with pytest.raises(DeadlineExceeded):
        await answer(runtime, None, runtime.context(timeout_s=0.05))


async def test_a_handler_without_annotations_is_given_its_context(runtime: DistributedRuntime) -> None:
    async def generate(request, context):  # type: ignore[no-untyped-def]
        yield context.id()

    await runtime.serve(PATH, generate)
    assert await answer(runtime, None, runtime.context("mine")) == "mine"


async def test_a_path_that_is_none_says_what_one_is(runtime: DistributedRuntime) -> None:
    with pytest.raises(
        InvalidArgument, match=r"'words\.count' is not an endpoint: write namespace\.component\.endpoint"
    ):
        await runtime.serve("words.count", count)
    with pytest.raises(InvalidArgument, match="'words' is not an endpoint"):
        await runtime.client("words")

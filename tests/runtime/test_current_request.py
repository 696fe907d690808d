"""While a handler of any kind runs, its request is the current one, for what it logs and calls; then it is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from dynamo._core.context import Context, current_context
from dynamo.runtime import DistributedRuntime, HandlerError

DEADLINE_S = 60.0


def request_id() -> str:
    context = current_context.get()
    return "" if context is None else context.request_id


async def stream(request: object) -> AsyncIterator[str]:
    yield request_id()
    await asyncio.sleep(0)
    yield request_id()


async def unary(request: object) -> str:
    return request_id()


def plain(request: object) -> str:
    return request_id()


def plain_stream(request: object) -> Iterator[str]:
    yield request_id()
    yield request_id()


@pytest.fixture
async def runtime() -> AsyncIterator[DistributedRuntime]:
    async with DistributedRuntime(discovery="memory:", request_plane="inproc:") as runtime:
        yield runtime


async def ask(runtime: DistributedRuntime, handler: Callable[..., object], context: Context) -> list[object]:
    endpoint = runtime.endpoint("ns.comp.generate")
    served = await endpoint.serve(handler)
    client = await endpoint.client()
    try:
        async with asyncio.timeout(DEADLINE_S):
            return [item async for item in await client.generate("", annotated=False, context=context)]
    finally:
        await served.close()


@pytest.mark.parametrize("handler", [stream, unary, plain, plain_stream])
async def test_every_kind_of_handler_knows_its_request(
    runtime: DistributedRuntime, handler: Callable[..., object]
) -> None:
    assert set(await ask(runtime, handler, Context("mine"))) == {"mine"}
    assert current_context.get() is None


async def test_requests_at_the_same_time_know_each_its_own(runtime: DistributedRuntime) -> None:
    both = asyncio.Barrier(2)

    async def handler(request: object) -> AsyncIterator[str]:
        await both.wait()
        yield request_id()

    endpoint = runtime.endpoint("ns.comp.generate")
    await endpoint.serve(handler)
    client = await endpoint.client()
    streams = [await client.generate("", annotated=False, context=Context(name)) for name in ("one", "other")]
    async with asyncio.timeout(DEADLINE_S):
        assert await asyncio.gather(*(anext(stream) for stream in streams)) == ["one", "other"]


async def test_a_request_is_over_when_its_handler_has_ended_however(runtime: DistributedRuntime) -> None:
    seen: list[Context] = []

    async def handler(request: object, context: Context) -> AsyncIterator[bool]:
        seen.append(context)
        yield context.is_over
        raise LookupError("failed")

    with pytest.raises(HandlerError):
        await ask(runtime, handler, Context("fails"))
    assert [context.is_over for context in seen] == [True]

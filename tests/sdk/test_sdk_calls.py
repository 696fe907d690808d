"""Calls from one service to another, through `depends`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from tests.sdk.services import Request, Worker
from tests.sdk.world import DEADLINE_S, World

from dynamo.runtime import DynamoError, HandlerError
from dynamo.sdk import depends, dynamo_endpoint, service


@service
class Caller:
    worker = depends(Worker)

    @dynamo_endpoint()
    async def relay(self, request: Request) -> AsyncIterator[object]:
        async for item in self.worker.stream(request):
            yield item

    @dynamo_endpoint()
    async def ask(self, request: Request) -> object:
        return await self.worker.unary(request)

    @dynamo_endpoint()
    async def relay_failure(self, request: int) -> AsyncIterator[int]:
        async for item in self.worker.fails_after(request):
            yield item

    @dynamo_endpoint()
    async def ask_in_many_ways(self, request: Request) -> list[object]:
        chat = getattr(self.worker, "chat/completions")
        return [
            await chat({"as": "dict"}),
            await self.worker.chat("as text"),  # type: ignore[no-untyped-call]
            await getattr(self.worker, "chat_completions")(request),  # noqa: B009
            await self.worker.nothing(),
            await anext(self.worker.stream(request)),
            await self.worker.stream(request),  # type: ignore[misc]
            await self.worker.stream(Request(text="")),  # type: ignore[misc]
        ]

    @dynamo_endpoint()
    async def unknown(self, request: str) -> str:
        try:
            self.worker.nope  # type: ignore[attr-defined]  # noqa: B018
        except AttributeError as error:
            return str(error)
        return "no error"

    @dynamo_endpoint()
    async def clients_are_one(self, request: str) -> bool:
        client = getattr(self.worker, "get_endpoint")  # noqa: B009
        return await client("unary") is await client("unary") is await Caller.worker.get_endpoint("unary")

    @dynamo_endpoint()
    async def late_failure(self, request: int) -> object:
        return await self.worker.fails_after(request)  # type: ignore[misc]


@service
class Top:
    caller = depends(Caller)

    @dynamo_endpoint()
    async def relay_failure(self, request: int) -> AsyncIterator[int]:
        async for item in self.caller.relay_failure(request):
            yield item


@pytest.fixture
async def chain(world: World) -> World:
    await world.run(Worker)
    await world.run(Caller)
    return world


async def test_a_call_is_iterated_for_a_stream(chain: World) -> None:
    assert await chain.call(Caller, "relay", Request(text="a b")) == [{"word": "a"}, {"word": "b"}]


async def test_a_call_is_awaited_for_one_answer(chain: World) -> None:
    assert await chain.call(Caller, "ask", Request(text="a")) == [{"word": "a"}]


async def test_a_call_takes_anything_and_goes_by_any_name(chain: World) -> None:
    answers = await chain.call(Caller, "ask_in_many_ways", Request(text="a b"))
    first = {"word": "a"}
    assert answers == [[{"as": "dict"}, "as text", {"text": "a b"}, "asked for nothing", first, first, None]]


async def test_an_unknown_endpoint_is_an_attribute_error_that_lists_them(chain: World) -> None:
    [message] = await chain.call(Caller, "unknown", "")
    assert str(message).startswith(
        "No Dynamo endpoint 'nope' found on service 'Worker'. Available endpoints: ['stream',"
    )


async def test_clients_are_made_once(chain: World) -> None:
    assert await chain.call(Caller, "clients_are_one", "") == [True]


async def test_an_error_right_after_the_awaited_answer_is_raised(chain: World) -> None:
    with pytest.raises(HandlerError, match="LookupError: no more numbers"):
        await chain.call(Caller, "late_failure", 1)


async def test_an_exception_crosses_hops_without_nesting(chain: World) -> None:
    await chain.run(Top)
    client = await chain.client(Top, "relay_failure")
    items = []
    with pytest.raises(HandlerError) as raised:
        async for item in await client.generate(2, annotated=False):
            items.append(item)
    assert items == [0, 1]
    assert str(raised.value) == "LookupError: no more numbers"


class Refused(Exception):
    """An error of the user's own."""


MESSAGE = "line one\nline two: \N{SNOWMAN}"


@service
class Bottom:
    @dynamo_endpoint()
    async def stream(self, request: int) -> AsyncIterator[int]:
        for number in range(request):
            yield number
        raise Refused(MESSAGE)

    @dynamo_endpoint()
    async def unary(self, request: int) -> int:
        raise Refused(MESSAGE)

    @dynamo_endpoint()
    def sync(self, request: int) -> int:
        raise Refused(MESSAGE)

    @dynamo_endpoint()
    def sync_stream(self, request: int) -> Iterator[int]:
        yield from range(request)
        raise Refused(MESSAGE)


class Relay:
    """Three services like this one stand between the caller and the failure."""

    @dynamo_endpoint()
    async def stream(self, request: list[object]) -> AsyncIterator[object]:
        async for item in self.ask(request):
            yield item

    @dynamo_endpoint()
    async def unary(self, request: list[object]) -> object:
        return await self.ask(request)

    @dynamo_endpoint()
    def sync(self, request: list[object]) -> object:
        return self.ask(request)  # awaited for it, on the loop

    def ask(self, request: list[object]) -> Any:
        """Call the next one in the way that it goes by, or the bottom with the count of items."""
        how, *rest = request
        return getattr(getattr(self, "next"), str(how))(rest if len(rest) > 1 else rest[0])  # noqa: B009


@service
class ThirdHop(Relay):
    next = depends(Bottom)


@service
class SecondHop(Relay):
    next = depends(ThirdHop)


@service
class FirstHop(Relay):
    next = depends(SecondHop)


@pytest.mark.parametrize(
    ("ways", "items"),
    [
        (["stream", "stream", "stream", "stream"], [0, 1, 2]),
        (["stream", "stream", "stream", "sync_stream"], [0, 1, 2]),
        (["unary", "unary", "unary", "unary"], []),
        (["stream", "unary", "sync", "sync"], []),
        (["sync", "sync", "sync", "sync"], []),
    ],
)
async def test_an_error_is_the_same_after_three_hops_and_the_items_before_it(
    world: World, ways: list[str], items: list[int]
) -> None:
    for hop in (Bottom, ThirdHop, SecondHop, FirstHop):
        await world.run(hop)
    client = await world.client(FirstHop, ways[0])
    received = []
    with pytest.raises(HandlerError) as raised:
        async for item in await client.generate([*ways[1:], 3], annotated=False):
            received.append(item)
    assert received == items
    assert raised.value.type_name == "Refused"
    assert raised.value.message == MESSAGE
    assert str(raised.value) == f"Refused: {MESSAGE}"


ended = asyncio.Event()


@service
class Endless:
    @dynamo_endpoint()
    async def generate(self, request: str) -> AsyncIterator[int]:
        try:
            number = 0
            while True:
                yield number
                number += 1
                await asyncio.sleep(0.01)
        finally:
            ended.set()


@service
class EndlessCaller:
    endless = depends(Endless)

    @dynamo_endpoint()
    async def first_two(self, request: str) -> list[int]:
        items = []
        async for item in self.endless.generate(request):
            items.append(item)
            if item == 1:
                break
        return items

    @dynamo_endpoint()
    async def all(self, request: str) -> AsyncIterator[int]:
        async for item in self.endless.generate(request):
            yield item


@service(traffic={"timeout": 0.05})
class Limited:
    @dynamo_endpoint()
    async def generate(self, request: str) -> None:
        await asyncio.Event().wait()


@service
class LimitedCaller:
    limited = depends(Limited)

    @dynamo_endpoint()
    async def ask(self, request: str) -> None:
        await self.limited.generate(request)


async def test_leaving_the_loop_cancels_the_called_service(world: World) -> None:
    ended.clear()
    await world.run(Endless)
    await world.run(EndlessCaller)
    assert await world.call(EndlessCaller, "first_two", "") == [[0, 1]]
    await asyncio.wait_for(ended.wait(), DEADLINE_S)


async def test_closing_the_outer_call_cancels_the_inner_one(world: World) -> None:
    ended.clear()
    await world.run(Endless)
    await world.run(EndlessCaller)
    client = await world.client(EndlessCaller, "all")
    async with await client.generate("", annotated=False) as items:
        assert await anext(items) == 0
    await asyncio.wait_for(ended.wait(), DEADLINE_S)


async def test_a_call_ends_at_the_time_limit_of_the_called_service(world: World) -> None:
    await world.run(Limited)
    await world.run(LimitedCaller)
    with pytest.raises(DynamoError) as raised:
        await world.call(LimitedCaller, "ask", "")
    assert raised.value.code == "deadline_exceeded"


async def test_services_start_in_any_order(world: World) -> None:
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as tasks:
        caller = tasks.create_task(world.run(Caller))
        await asyncio.sleep(0)
        assert not caller.done()
        tasks.create_task(world.run(Worker))

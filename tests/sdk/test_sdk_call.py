"""One call: how it is written, what may be done with it, and when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator

import pytest
from tests.sdk.world import DEADLINE_S, World

from dynamo._core.context import Context
from dynamo._core.errors import Cancelled
from dynamo.runtime import HandlerError, NoInstances
from dynamo.sdk import depends, dynamo_endpoint, service, service_of
from dynamo.sdk._call import Call
from dynamo.sdk._proxy import ServiceProxy

open_streams = 0
all_closed = asyncio.Event()


@service
class Callee:
    @dynamo_endpoint()
    async def echo(self, request: object) -> object:
        return request

    @dynamo_endpoint()
    async def count(self, request: int) -> AsyncIterator[int]:
        for number in range(request):
            yield number

    @dynamo_endpoint()
    async def with_context(self, prompt: object, ctx: Context) -> object:
        return [prompt, ctx.request_id]

    @dynamo_endpoint()
    async def nothing(self) -> str:
        return "asked for nothing"

    @dynamo_endpoint()
    async def endless(self, request: object) -> AsyncIterator[int]:
        global open_streams
        open_streams += 1
        try:
            yield 0
            await asyncio.Event().wait()
        finally:
            open_streams -= 1
            if not open_streams:
                all_closed.set()

    @dynamo_endpoint("v1/chat")
    async def chat(self, request: object) -> object:
        return ["v1/chat", request]

    @dynamo_endpoint("a.b")
    async def dotted(self, request: object) -> str:
        return "a.b"

    @dynamo_endpoint("a-b")
    async def dashed(self, request: object) -> str:
        return "a-b"


@pytest.fixture
async def callee(world: World) -> AsyncIterator[ServiceProxy]:
    global open_streams
    open_streams = 0
    all_closed.clear()
    await world.run(Callee)
    proxy = ServiceProxy(service_of(Callee), await world.join())
    yield proxy
    await ServiceProxy.close(proxy)


# How it is written.


@pytest.mark.parametrize("value", [None, "text", 5, [1], {"request": 1}])
async def test_the_request_is_the_argument_or_a_keyword(callee: ServiceProxy, value: object) -> None:
    assert await callee.echo(value) == value
    assert await callee.echo(request=value) == value


async def test_a_request_goes_by_the_name_that_its_handler_gives_it(callee: ServiceProxy) -> None:
    context = Context("an-id")
    expected: object = ["text", "an-id"]
    assert await callee.with_context("text", context) == expected
    assert await callee.with_context(prompt="text", ctx=context) == expected
    assert await callee.with_context(request="text", context=context) == expected


async def test_an_endpoint_without_request_is_called_without(callee: ServiceProxy) -> None:
    assert await callee.nothing() == "asked for nothing"


async def test_an_endpoint_goes_by_its_name_its_method_and_an_identifier(callee: ServiceProxy) -> None:
    for name in ("v1/chat", "v1_chat", "chat"):
        assert await getattr(callee, name)(1) == ["v1/chat", 1]


async def test_a_name_that_could_mean_two_endpoints_means_none(callee: ServiceProxy) -> None:
    assert await getattr(callee, "a.b")(0) == "a.b"
    assert await getattr(callee, "a-b")(0) == "a-b"
    with pytest.raises(AttributeError, match="No Dynamo endpoint 'a_b' found on service 'Callee'"):
        _ = callee.a_b


@service
class Door:
    @dynamo_endpoint()
    async def close(self, request: str) -> str:
        return f"{request} closed"


async def test_an_endpoint_may_have_a_name_that_the_proxy_uses_itself(world: World) -> None:
    await world.run(Door)
    proxy = ServiceProxy(service_of(Door), await world.join())
    assert await getattr(proxy, "close")("door") == "door closed"  # noqa: B009
    await ServiceProxy.close(proxy)


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        ((1, 2), {}, "Callee.echo() takes one request, and a context if any; put several values into one request"),
        ((1, None, 3), {}, "Callee.echo() takes one request"),
        ((1,), {"request": 2}, "Callee.echo() takes one request"),
        ((1,), {"context": "no context"}, "Callee.echo() takes one request, and a context if any"),
        ((1,), {"temperature": 0}, "Callee.echo() got an unexpected keyword argument 'temperature'"),
        ((), {}, "Callee.echo() is missing its request; call it with None if that is meant"),
    ],
)
async def test_what_is_no_single_request_is_a_type_error(
    callee: ServiceProxy, arguments: tuple[object, ...], keywords: dict[str, object], message: str
) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        callee.echo(*arguments, **keywords)


async def test_an_endpoint_that_takes_nothing_is_given_nothing(callee: ServiceProxy) -> None:
    with pytest.raises(TypeError, match=re.escape("Callee.nothing() takes no request")):
        callee.nothing(5)


# What may be done with it.


async def test_a_call_runs_as_a_task_and_in_a_group(callee: ServiceProxy) -> None:
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(callee.echo(number)) for number in range(3)]
    assert [task.result() for task in running] == [0, 1, 2]
    assert list(await asyncio.gather(callee.echo("a"), callee.echo("b"))) == ["a", "b"]
    assert await asyncio.wait_for(callee.echo("c"), DEADLINE_S) == "c"


async def test_the_error_of_a_call_is_that_of_its_task(callee: ServiceProxy) -> None:
    with pytest.raises(HandlerError):
        await asyncio.create_task(callee.count("no number"))


async def test_a_cancelled_task_cancels_the_work(callee: ServiceProxy) -> None:
    async def wait() -> None:
        async for _ in callee.endless(0):
            started.set()

    started = asyncio.Event()
    task = asyncio.create_task(wait())
    await asyncio.wait_for(started.wait(), DEADLINE_S)
    task.cancel()
    await asyncio.wait_for(all_closed.wait(), DEADLINE_S)
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("cancel_early", [True, False])
async def test_a_call_that_is_a_task_can_be_cancelled(callee: ServiceProxy, cancel_early: bool) -> None:
    task = asyncio.ensure_future(callee.endless(0))
    if not cancel_early:
        while not open_streams:  # noqa: ASYNC110 - the handler counts, it has no event
            await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    if not cancel_early:
        await asyncio.wait_for(all_closed.wait(), DEADLINE_S)


async def test_a_call_is_awaited_once(callee: ServiceProxy) -> None:
    call = callee.echo(1)
    assert await call == 1
    with pytest.raises(RuntimeError, match=r"the call of Callee\.echo is awaited already; make another one"):
        await call
    with pytest.raises(RuntimeError, match="is awaited already"):
        async for _ in call:
            pass
    with pytest.raises(RuntimeError):
        await anext(call)


async def test_a_call_that_is_iterated_is_not_awaited(callee: ServiceProxy) -> None:
    call = callee.count(3)
    assert await anext(call) == 0
    with pytest.raises(RuntimeError, match=r"the call of Callee\.count is iterated already"):
        await call
    assert [item async for item in call] == [1, 2]
    assert [item async for item in call] == []


async def test_a_call_has_one_reader(callee: ServiceProxy) -> None:
    call = callee.count(2)
    outcomes = await asyncio.gather(anext(call), anext(call), return_exceptions=True)
    assert outcomes[0] == 0
    assert isinstance(outcomes[1], RuntimeError)
    assert await anext(call) == 1


async def test_a_call_that_nobody_reads_warns(callee: ServiceProxy) -> None:
    message = r"the call of Callee\.echo was never awaited nor iterated, so it was not"
    with pytest.warns(RuntimeWarning, match=message) as warned:
        callee.echo(1)
    assert warned[0].filename == __file__


async def test_a_call_that_is_closed_unread_does_not_warn(callee: ServiceProxy) -> None:
    callee.echo(1).close()
    await callee.echo(1).aclose()


async def test_a_closed_call_ends_at_once(callee: ServiceProxy) -> None:
    call = callee.endless(0)
    assert await anext(call) == 0
    waiting = asyncio.ensure_future(anext(call, "the end"))
    await asyncio.sleep(0)
    await call.aclose()
    assert await asyncio.wait_for(waiting, DEADLINE_S) == "the end"
    await asyncio.wait_for(all_closed.wait(), DEADLINE_S)


async def test_leaving_the_block_of_a_call_cancels_the_work(callee: ServiceProxy) -> None:
    async with callee.endless(0) as items:
        assert await anext(items) == 0
    await asyncio.wait_for(all_closed.wait(), DEADLINE_S)


async def test_a_thousand_calls_that_are_left_in_every_way_leave_nothing(callee: ServiceProxy) -> None:
    async def leave(number: int) -> None:
        call: Call = callee.endless(number)
        assert await anext(call) == 0
        if number % 4 == 0:
            await call.aclose()
        elif number % 4 == 1:
            async with call:
                pass
        elif number % 4 == 2:
            del call
        else:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(anext(call), 0.001)

    async with asyncio.TaskGroup() as tasks:
        for number in range(1000):
            tasks.create_task(leave(number))
    await asyncio.wait_for(all_closed.wait(), DEADLINE_S)


# A handler may return a call instead of awaiting it or iterating over it.


@service
class Passing:
    callee = depends(Callee)

    @dynamo_endpoint()
    def stream(self, request: int) -> AsyncIterator[int]:
        return self.callee.count(request)

    @dynamo_endpoint()
    async def async_stream(self, request: int) -> AsyncIterator[int]:
        return self.callee.count(request)

    @dynamo_endpoint()
    async def unary(self, request: int) -> object:
        return self.callee.echo(request)


@pytest.mark.parametrize(("endpoint", "answers"), [("stream", [0, 1, 2]), ("async_stream", [0, 1, 2]), ("unary", [3])])
async def test_a_call_that_is_returned_is_answered_whole(world: World, endpoint: str, answers: list[int]) -> None:
    await world.run(Callee)
    await world.run(Passing)
    assert await world.call(Passing, endpoint, 3) == answers


async def test_a_task_that_runs_a_call_can_be_shown(callee: ServiceProxy) -> None:
    asyncio.get_running_loop().set_debug(True)
    task = asyncio.create_task(callee.echo(1))
    assert "Call" in repr(task)
    assert await task == 1


# The request that is being served.


@service(traffic={"timeout": 60})
class Slow:
    @dynamo_endpoint()
    async def wait(self, request: object, context: Context) -> object:
        await context.async_killed_or_stopped()
        return context.request_id


async def test_what_ends_the_outer_request_ends_a_call_within_a_time_limit(world: World) -> None:
    await world.run(Slow)
    proxy = ServiceProxy(service_of(Slow), await world.join())
    await ServiceProxy.connect(proxy)
    stopped, killed = Context("one"), Context("two")
    calls = [asyncio.ensure_future(proxy.wait(0, context=context)) for context in (stopped, killed)]
    await asyncio.sleep(0)
    stopped.stop_generating()
    killed.kill()
    assert await asyncio.wait_for(calls[0], DEADLINE_S) == "one"
    with pytest.raises(Cancelled):
        await asyncio.wait_for(calls[1], DEADLINE_S)
    await ServiceProxy.close(proxy)


async def test_a_closed_proxy_finds_its_service_anew(world: World) -> None:
    runner = await world.run(Callee)
    proxy = ServiceProxy(service_of(Callee), await world.join())
    assert await proxy.echo(1) == 1
    client = await proxy.get_endpoint("echo")
    await ServiceProxy.close(proxy)
    assert await proxy.echo(2) == 2
    assert await proxy.get_endpoint("echo") is not client
    await runner.stop()
    with pytest.raises(NoInstances):
        await proxy.echo(3)
    await ServiceProxy.close(proxy)

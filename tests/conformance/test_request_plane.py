"""What every request plane must do, run on each of them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from dynamo._core.context import Context
from dynamo._core.errors import (
    Cancelled,
    CannotConnect,
    DeadlineExceeded,
    Disconnected,
    DynamoError,
    EngineShutdown,
    HandlerError,
    InvalidArgument,
    Overloaded,
)
from dynamo._core.request_plane import Handler, Listener, RequestPlane, ResponseStream
from dynamo._core.request_plane.base import (
    CLEANUP_TIMEOUT_S,
    MESSAGE_BYTES_MAX,
    METADATA_BYTES_MAX,
    REQUEST_ID_CHARS_MAX,
    STREAM_WINDOW_BYTES,
)
from dynamo._core.request_plane.inproc import InprocPlane
from dynamo._core.request_plane.tcp import TcpPlane

DEADLINE_S = 10.0


class Pair:
    """A plane that serves and a plane that calls."""

    def __init__(self, serving: RequestPlane, calling: RequestPlane) -> None:
        self.serving = serving
        self.calling = calling

    async def listen(self, handler: Handler) -> Listener:
        return await self.serving.listen(handler)

    async def call(self, listener: Listener, request: bytes = b"", context: Context | None = None) -> ResponseStream:
        return await self.calling.call(listener.address, request, context or Context())


@pytest_asyncio.fixture(params=["inproc", "tcp", "unix"])
async def pair(request: pytest.FixtureRequest) -> AsyncIterator[Pair]:
    serving: RequestPlane
    calling: RequestPlane
    if request.param == "inproc":
        serving = calling = InprocPlane()
    else:
        serving, calling = (TcpPlane(local=request.param == "unix") for _ in range(2))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(serving.close)
        stack.push_async_callback(calling.close)
        yield Pair(serving, calling)


async def read(stream: ResponseStream) -> list[bytes]:
    async with asyncio.timeout(DEADLINE_S):
        return [item async for item in stream]


async def count_to(request: bytes, context: Context) -> AsyncIterator[bytes]:
    for number in range(int(request)):
        yield b"%d" % number


async def forever(request: bytes, context: Context) -> AsyncIterator[bytes]:
    while True:
        yield b"again"
        await asyncio.sleep(0)


class Waiting:
    """A handler that yields once, waits, and notes how it ended."""

    def __init__(self) -> None:
        self.context: Context | None = None
        self.ended = asyncio.Event()

    async def __call__(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        self.context = context
        try:
            yield b"first"
            await asyncio.Event().wait()
        finally:
            self.ended.set()

    async def wait_ended(self) -> None:
        async with asyncio.timeout(DEADLINE_S):
            await self.ended.wait()


async def test_items_arrive_in_order_and_the_stream_ends(pair: Pair) -> None:
    listener = await pair.listen(count_to)
    assert await read(await pair.call(listener, b"1000")) == [b"%d" % n for n in range(1000)]


async def test_a_stream_may_be_empty(pair: Pair) -> None:
    listener = await pair.listen(count_to)
    assert await read(await pair.call(listener, b"0")) == []


async def test_an_exhausted_stream_stays_exhausted(pair: Pair) -> None:
    listener = await pair.listen(count_to)
    stream = await pair.call(listener, b"1")
    assert await read(stream) == [b"0"]
    assert await read(stream) == []
    assert await stream.batch() == []


async def test_batches_hold_the_same_items(pair: Pair) -> None:
    listener = await pair.listen(count_to)
    stream = await pair.call(listener, b"500")
    items: list[bytes] = []
    async with asyncio.timeout(DEADLINE_S):
        while batch := await stream.batch():
            items += batch
    assert items == [b"%d" % n for n in range(500)]


async def test_requests_and_items_may_be_large(pair: Pair) -> None:
    async def echo(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield request

    listener = await pair.listen(echo)
    payload = bytes(range(256)) * 40960  # 10 MiB
    assert await read(await pair.call(listener, payload)) == [payload]


async def test_a_request_above_the_limit_is_refused_before_it_is_sent(pair: Pair) -> None:
    listener = await pair.listen(count_to)
    with pytest.raises(InvalidArgument, match="exceeds the limit"):
        await pair.call(listener, bytes(MESSAGE_BYTES_MAX + 1))


async def test_an_item_above_the_limit_ends_its_stream_only(pair: Pair) -> None:
    async def huge(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield bytes(MESSAGE_BYTES_MAX + 1)

    huge_listener, listener = await pair.listen(huge), await pair.listen(count_to)
    with pytest.raises(InvalidArgument, match="exceeds the limit"):
        await read(await pair.call(huge_listener))
    assert await read(await pair.call(listener, b"1")) == [b"0"]


async def test_streams_run_side_by_side(pair: Pair) -> None:
    listener = await pair.listen(count_to)
    streams = [await pair.call(listener, b"50") for _ in range(40)]
    results = await asyncio.gather(*map(read, streams))
    assert results == [[b"%d" % n for n in range(50)]] * 40


async def test_each_handler_has_its_own_address(pair: Pair) -> None:
    async def other(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield b"other"

    one, two = await pair.listen(count_to), await pair.listen(other)
    assert one.address != two.address
    assert await read(await pair.call(two)) == [b"other"]


async def test_the_context_travels(pair: Pair) -> None:
    seen: list[Context] = []

    async def note(request: bytes, context: Context) -> AsyncIterator[bytes]:
        seen.append(context)
        yield b""

    listener = await pair.listen(note)
    deadline = asyncio.get_running_loop().time() + 100
    await read(await pair.call(listener, b"", Context("request-7", {"tenant": "a"}, deadline=deadline)))
    assert seen[0].request_id == "request-7"
    assert seen[0].metadata == {"tenant": "a"}
    assert seen[0].deadline == pytest.approx(deadline, abs=5)


async def test_an_error_comes_after_the_items_before_it(pair: Pair) -> None:
    async def fails(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield b"one"
        yield b"two"
        raise ValueError("no third")

    listener = await pair.listen(fails)
    stream = await pair.call(listener)
    assert [await anext(stream), await anext(stream)] == [b"one", b"two"]
    with pytest.raises(HandlerError, match="ValueError: no third"):
        await anext(stream)


async def test_our_errors_keep_their_class_and_their_cause(pair: Pair) -> None:
    async def fails(request: bytes, context: Context) -> AsyncIterator[bytes]:
        try:
            raise KeyError("slot")
        except KeyError as error:
            raise Overloaded("full", limit=3) from error
        yield b""

    listener = await pair.listen(fails)
    with pytest.raises(Overloaded, match="full") as caught:
        await read(await pair.call(listener))
    assert caught.value.details == {"limit": 3}
    assert isinstance(caught.value.__cause__, HandlerError)
    assert caught.value.__cause__.type_name == "KeyError"


async def test_closing_the_stream_ends_the_handler(pair: Pair) -> None:
    handler = Waiting()
    listener = await pair.listen(handler)
    stream = await pair.call(listener)
    assert await anext(stream) == b"first"
    await stream.aclose()
    await stream.aclose()
    await handler.wait_ended()
    assert handler.context is not None
    assert handler.context.is_killed()


async def test_a_request_may_be_closed_before_its_first_item(pair: Pair) -> None:
    ended = asyncio.Event()

    async def silent(request: bytes, context: Context) -> AsyncIterator[bytes]:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        yield b""

    started = asyncio.Event()
    listener = await pair.listen(silent)
    stream = await pair.call(listener)
    async with asyncio.timeout(DEADLINE_S):
        await started.wait()
        await stream.aclose()
        await ended.wait()


async def test_killing_the_context_ends_the_stream_with_an_error(pair: Pair) -> None:
    handler, context = Waiting(), Context()
    listener = await pair.listen(handler)
    stream = await pair.call(listener, b"", context)
    assert await anext(stream) == b"first"
    context.kill()
    with pytest.raises(Cancelled):
        await read(stream)
    await handler.wait_ended()


async def test_a_soft_stop_reaches_the_handler_and_lets_it_finish(pair: Pair) -> None:
    async def polite(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield b"begun"
        await context.async_killed_or_stopped()
        yield b"finished"

    context = Context()
    listener = await pair.listen(polite)
    stream = await pair.call(listener, b"", context)
    assert await anext(stream) == b"begun"
    context.stop_generating()
    assert await read(stream) == [b"finished"]


async def test_the_deadline_ends_both_sides(pair: Pair) -> None:
    handler = Waiting()
    listener = await pair.listen(handler)
    deadline = asyncio.get_running_loop().time() + 0.05
    with pytest.raises(DeadlineExceeded):
        await read(await pair.call(listener, b"", Context(deadline=deadline)))
    await handler.wait_ended()


async def test_a_slow_reader_pauses_its_producer_and_nobody_else(pair: Pair) -> None:
    produced = 0
    item = bytes(64 << 10)

    async def eager(request: bytes, context: Context) -> AsyncIterator[bytes]:
        nonlocal produced
        while produced < 200:
            produced += 1
            yield item

    eager_listener, listener = await pair.listen(eager), await pair.listen(count_to)
    slow = await pair.call(eager_listener)
    assert await anext(slow) == item
    for _ in range(20):
        assert len(await read(await pair.call(listener, b"200"))) == 200
    assert produced <= STREAM_WINDOW_BYTES // len(item) + 2
    assert len(await read(slow)) == 199


async def test_the_first_item_does_not_wait_for_the_second(pair: Pair) -> None:
    go_on = asyncio.Event()

    async def two(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield b"first"
        await go_on.wait()
        yield b"second"

    listener = await pair.listen(two)
    stream = await pair.call(listener)
    async with asyncio.timeout(DEADLINE_S):
        assert await anext(stream) == b"first"
    go_on.set()
    assert await read(stream) == [b"second"]


async def test_a_handler_that_never_waits_leaves_room_for_others(pair: Pair) -> None:
    endless, listener = await pair.listen(forever), await pair.listen(count_to)
    stream = await pair.call(endless)
    await anext(stream)
    assert await read(await pair.call(listener, b"3")) == [b"0", b"1", b"2"]
    await stream.aclose()


async def test_a_closed_listener_refuses_and_ends_what_runs(pair: Pair) -> None:
    handler = Waiting()
    listener = await pair.listen(handler)
    stream = await pair.call(listener)
    assert await anext(stream) == b"first"
    await listener.close()
    with pytest.raises(EngineShutdown):
        await read(stream)
    assert handler.ended.is_set()
    with pytest.raises(Exception, match=r"nothing listens|no longer serves"):
        await read(await pair.call(listener))


async def test_a_listener_that_drains_lets_requests_finish(pair: Pair) -> None:
    go_on = asyncio.Event()

    async def patient(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield b"begun"
        await go_on.wait()
        yield b"finished"

    listener = await pair.listen(patient)
    stream = await pair.call(listener)
    assert await anext(stream) == b"begun"
    closing = asyncio.ensure_future(listener.close(drain_s=DEADLINE_S))
    go_on.set()
    assert await read(stream) == [b"finished"]
    await closing


async def test_an_address_where_nobody_listens_cannot_be_reached(pair: Pair) -> None:
    listener = await pair.listen(count_to)
    await listener.close()
    await pair.serving.close()
    with pytest.raises(CannotConnect):
        await pair.call(listener)


@pytest.mark.parametrize(
    "context",
    [
        Context("x" * (REQUEST_ID_CHARS_MAX + 1)),
        Context("\ud800"),
        Context(metadata={"key": "v" * METADATA_BYTES_MAX}),
        Context(metadata={"key": "\udc80"}),
        Context(metadata={"key": 1}),  # type: ignore[dict-item]
    ],
    ids=["long id", "id that is no text", "large metadata", "metadata that is no text", "metadata of numbers"],
)
async def test_a_context_that_cannot_travel_is_refused_and_costs_nobody_else(pair: Pair, context: Context) -> None:
    listener = await pair.listen(count_to)
    other = await pair.call(listener, b"2")
    with pytest.raises(InvalidArgument):
        await pair.call(listener, b"1", context)
    assert await read(other) == [b"0", b"1"]


async def test_a_request_whose_time_is_up_does_not_reach_the_handler(pair: Pair) -> None:
    handler = Waiting()
    listener = await pair.listen(handler)
    deadline = asyncio.get_running_loop().time() - 1
    with pytest.raises(DeadlineExceeded):
        await read(await pair.call(listener, b"", Context(deadline=deadline)))
    assert await read(await pair.call(await pair.listen(count_to), b"1")) == [b"0"]
    assert handler.context is None


async def test_a_handler_that_ends_in_an_unusual_way_is_an_error(pair: Pair) -> None:
    class OddError(BaseException):
        pass

    async def odd(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield b"one"
        raise OddError("never seen before")

    asyncio.get_running_loop().set_exception_handler(lambda loop, problem: None)
    listener = await pair.listen(odd)
    stream = await pair.call(listener)
    assert await anext(stream) == b"one"
    with pytest.raises(HandlerError, match="OddError: never seen before"):
        await read(stream)
    gc.collect()


async def test_a_handler_that_cancels_itself_is_an_error(pair: Pair) -> None:
    async def cancels(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield b"one"
        raise asyncio.CancelledError

    stream = await pair.call(await pair.listen(cancels))
    assert await anext(stream) == b"one"
    with pytest.raises(Cancelled):
        await read(stream)


async def test_a_handler_that_swallows_its_cancellation_is_ended_at_its_next_item(pair: Pair) -> None:
    ended = asyncio.Event()

    async def stubborn(request: bytes, context: Context) -> AsyncIterator[bytes]:
        try:
            while True:
                try:
                    await asyncio.sleep(0.001)
                except asyncio.CancelledError:
                    yield b"never mind"
                yield bytes(STREAM_WINDOW_BYTES)
        finally:
            ended.set()

    listener = await pair.listen(stubborn)
    for _ in range(2):
        ended.clear()
        stream = await pair.call(listener)
        await anext(stream)
        await stream.aclose()
        async with asyncio.timeout(DEADLINE_S):
            await ended.wait()
    async with asyncio.timeout(DEADLINE_S):
        await listener.close()


async def test_the_caller_is_told_before_the_handler_has_cleaned_up(pair: Pair) -> None:
    clean = asyncio.Event()

    async def tidy(request: bytes, context: Context) -> AsyncIterator[bytes]:
        try:
            yield b"begun"
            await asyncio.Event().wait()
        finally:
            await clean.wait()

    listener = await pair.listen(tidy)
    stream = await pair.call(listener)
    assert await anext(stream) == b"begun"
    closing = asyncio.ensure_future(listener.close())
    with pytest.raises(EngineShutdown):
        await read(stream)
    assert not closing.done()
    clean.set()
    await closing


async def test_nothing_interrupts_a_handler_that_cleans_up(pair: Pair) -> None:
    cleaning, cleaned = asyncio.Event(), asyncio.Event()

    async def tidy(request: bytes, context: Context) -> AsyncIterator[bytes]:
        try:
            yield b"begun"
            await asyncio.Event().wait()
        finally:
            cleaning.set()
            await asyncio.sleep(0.05)
            cleaned.set()

    listener = await pair.listen(tidy)
    context = Context(deadline=asyncio.get_running_loop().time() + 0.02)
    stream = await pair.call(listener, b"", context)
    assert await anext(stream) == b"begun"
    await stream.aclose()
    async with asyncio.timeout(DEADLINE_S):
        await cleaning.wait()
        context.kill()
        await pair.calling.close()
        await listener.close()
    assert cleaned.is_set()


async def test_closing_does_not_wait_for_a_handler_that_never_ends(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    let_go = asyncio.Event()

    async def stuck(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield b"begun"
        while not let_go.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await let_go.wait()

    listener = await pair.listen(stuck)
    stream = await pair.call(listener)
    assert await anext(stream) == b"begun"
    async with asyncio.timeout(2 * CLEANUP_TIMEOUT_S):
        await asyncio.gather(listener.close(), listener.close())
    assert "still run" in caplog.text
    let_go.set()
    with pytest.raises(EngineShutdown):
        await read(stream)


async def test_a_closed_plane_takes_no_requests_and_no_handlers(pair: Pair) -> None:
    listener = await pair.listen(count_to)
    assert await read(await pair.call(listener, b"1")) == [b"0"]
    for plane in (pair.calling, pair.serving):
        await asyncio.gather(plane.close(), plane.close())
        await plane.close()
        with pytest.raises(CannotConnect):
            await plane.call(listener.address, b"1", Context())
        with pytest.raises(DynamoError, match="closed"):
            await plane.listen(count_to)


async def test_closing_the_calling_plane_ends_its_streams_and_their_handlers(pair: Pair) -> None:
    handler = Waiting()
    stream = await pair.call(await pair.listen(handler))
    assert await anext(stream) == b"first"
    await pair.calling.close()
    with pytest.raises((Disconnected, EngineShutdown)):
        await read(stream)
    await handler.wait_ended()


async def test_items_larger_than_the_window_pass_one_by_one(pair: Pair) -> None:
    item = bytes(3 * STREAM_WINDOW_BYTES)
    produced = 0

    async def huge(request: bytes, context: Context) -> AsyncIterator[bytes]:
        nonlocal produced
        for _ in range(6):
            produced += 1
            yield item

    stream = await pair.call(await pair.listen(huge))
    async with asyncio.timeout(DEADLINE_S):
        for received in range(1, 7):
            assert await anext(stream) == item
            assert produced <= received + 2
    assert await read(stream) == []


async def test_a_producer_that_waits_for_its_reader_can_be_ended(pair: Pair) -> None:
    ended = asyncio.Event()

    async def eager(request: bytes, context: Context) -> AsyncIterator[bytes]:
        try:
            while True:
                yield bytes(64 << 10)
        finally:
            ended.set()

    listener = await pair.listen(eager)
    stream = await pair.call(listener)
    await anext(stream)
    assert await read(await pair.call(await pair.listen(count_to), b"200"))  # by now it waits
    await stream.aclose()
    async with asyncio.timeout(DEADLINE_S):
        await ended.wait()


async def test_nothing_is_left_when_all_is_closed(pair: Pair) -> None:
    tasks_before = asyncio.all_tasks()
    endless = await pair.listen(forever)
    context = Context(deadline=asyncio.get_running_loop().time() + 100)
    streams = [await pair.call(endless, b"", context) for _ in range(50)]
    for stream in streams[:10]:
        await anext(stream)
    for stream in streams[:25]:
        await stream.aclose()
    await pair.calling.close()
    await pair.serving.close()
    assert asyncio.all_tasks() == tasks_before
    assert context._watchers == []

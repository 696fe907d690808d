"""How requests, listeners and planes end, on each request plane: promptly, truthfully, leaving nothing."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator

import pytest
from tests.conformance.request_plane import DEADLINE_S, Pair, Waiting, count_to, forever, pair, read

from dynamo._core.context import Context
from dynamo._core.errors import (
    Cancelled,
    CannotConnect,
    DeadlineExceeded,
    Disconnected,
    DynamoError,
    EngineShutdown,
    HandlerError,
)
from dynamo._core.limits import STREAM_WINDOW_BYTES
from dynamo._core.request_plane.base import CLEANUP_TIMEOUT_S

__all__ = ["pair"]


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
    timeout_s = 0.5  # enough to connect, and for the handler to begin; if not, ask again with more
    while handler.context is None:
        deadline = asyncio.get_running_loop().time() + timeout_s
        with pytest.raises(DeadlineExceeded):
            await read(await pair.call(listener, b"", Context(deadline=deadline)))
        timeout_s *= 4
    await handler.wait_ended()


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
    if pair.serving is not pair.calling:
        await pair.serving.close()
    with pytest.raises(CannotConnect):
        await pair.call(listener)


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
    for timeout_s in (0.5, 5.0, 50.0):
        with contextlib.suppress(DeadlineExceeded):  # everything stood still: it is tried with more
            await _clean_up_beyond(pair, timeout_s)
            return
    raise AssertionError("the handler did not begin in time")


async def _clean_up_beyond(pair: Pair, timeout_s: float) -> None:
    """End a request in every way while its handler cleans up. Raise `DeadlineExceeded` if it has not begun in time."""
    cleaning, cleaned = asyncio.Event(), asyncio.Event()

    async def tidy(request: bytes, context: Context) -> AsyncIterator[bytes]:
        try:
            yield b"begun"
            await asyncio.Event().wait()
        finally:
            cleaning.set()
            await asyncio.sleep(timeout_s + 0.1)
            cleaned.set()

    listener = await pair.listen(tidy)
    await read(await pair.call(await pair.listen(count_to), b"1"))  # they are connected
    context = Context(deadline=asyncio.get_running_loop().time() + timeout_s)
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
        with pytest.raises(DynamoError, match="plane is closed") as caught:
            await plane.call(listener.address, b"1", Context())
        assert not isinstance(caught.value, CannotConnect), "there is nothing to try again"
        with pytest.raises(DynamoError, match="plane is closed"):
            await plane.listen(count_to)


async def test_closing_the_calling_plane_ends_its_streams_and_their_handlers(pair: Pair) -> None:
    handler = Waiting()
    stream = await pair.call(await pair.listen(handler))
    assert await anext(stream) == b"first"
    await pair.calling.close()
    with pytest.raises((Disconnected, EngineShutdown)):
        await read(stream)
    await handler.wait_ended()


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

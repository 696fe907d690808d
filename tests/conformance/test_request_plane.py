"""What every request plane must do, run on each of them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import pytest
from tests.conformance.request_plane import DEADLINE_S, Pair, Waiting, count_to, forever, pair, read

from dynamo._core.context import Context
from dynamo._core.errors import (
    DynamoError,
    HandlerError,
    InvalidArgument,
    Overloaded,
)
from dynamo._core.limits import (
    MESSAGE_BYTES_MAX,
    METADATA_BYTES_MAX,
    REQUEST_ID_CHARS_MAX,
    STREAM_WINDOW_BYTES,
)

__all__ = ["pair"]


async def test_items_arrive_in_order_and_the_stream_ends(pair: Pair) -> None:
    listener = await pair.listen(count_to)
    assert await read(await pair.call(listener, b"1000")) == [b"%d" % n for n in range(1000)]


async def test_a_stream_may_be_empty(pair: Pair) -> None:
    listener = await pair.listen(count_to)
    assert await read(await pair.call(listener, b"0")) == []


class OneAnswer:
    """Knows that its only item is the last, and must not be asked again."""

    is_done = False

    def __init__(self, request: bytes, context: Context) -> None:
        self._answer = request

    def __aiter__(self) -> OneAnswer:
        return self

    async def __anext__(self) -> bytes:
        if self.is_done:
            raise AssertionError("it was asked for another item")
        self.is_done = True
        return self._answer


async def test_an_answer_that_is_done_with_its_only_item_is_not_asked_for_another(pair: Pair) -> None:
    listener = await pair.listen(OneAnswer)
    assert await read(await pair.call(listener, b"answer")) == [b"answer"]
    assert await read(await pair.call(listener, b"again")) == [b"again"]


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


async def test_an_item_above_the_limit_ends_its_stream_only_and_is_the_fault_of_its_handler(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    async def huge(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield bytes(MESSAGE_BYTES_MAX + 1)

    huge_listener, listener = await pair.listen(huge), await pair.listen(count_to)
    with pytest.raises(HandlerError, match="exceeds the limit") as caught:
        await read(await pair.call(huge_listener))
    assert caught.value.details["code"] == "unsendable_item"
    [record] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert re.match("request [0-9a-f]{32}: an item of 33554433 bytes exceeds", record.getMessage())
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


@pytest.mark.parametrize(
    "context",
    [
        Context("x" * (REQUEST_ID_CHARS_MAX + 1)),
        Context("\ud800"),
        Context(b"bytes"),  # type: ignore[arg-type]
        Context(metadata={"key": "v" * METADATA_BYTES_MAX}),
        Context(metadata={"key": "\u20ac" * (METADATA_BYTES_MAX // 3)}),
        Context(metadata={"key": "\udc80"}),
        Context(metadata={"key": 1}),  # type: ignore[dict-item]
    ],
    ids=[
        "long id",
        "id that is no text",
        "id of bytes",
        "large metadata",
        "metadata of many bytes",
        "metadata that is no text",
        "metadata of numbers",
    ],
)
async def test_a_context_that_cannot_travel_is_refused_and_costs_nobody_else(pair: Pair, context: Context) -> None:
    listener = await pair.listen(count_to)
    other = await pair.call(listener, b"2")
    with pytest.raises(InvalidArgument):
        await pair.call(listener, b"1", context)
    assert await read(other) == [b"0", b"1"]


class Markup(str):
    """A text of a kind of its own, as templates and arrays have them."""


async def test_texts_of_any_kind_travel_as_texts_and_cost_nobody_else(pair: Pair) -> None:
    listener = await pair.listen(count_to)
    other = await pair.call(listener, b"2")
    stream = await pair.call(listener, b"1", Context(Markup("id"), {Markup("key"): Markup("value")}))
    assert await read(stream) == [b"0"]
    assert await read(other) == [b"0", b"1"]


async def test_an_error_with_details_of_any_kind_costs_nobody_else(pair: Pair) -> None:
    async def fails(request: bytes, context: Context) -> AsyncIterator[bytes]:
        raise DynamoError("no", is_full=True, name=Markup("a"))
        yield

    failing, listener = await pair.listen(fails), await pair.listen(Waiting())
    other = await pair.call(listener)
    assert await anext(other) == b"first"
    with pytest.raises(DynamoError, match="no") as caught:
        await read(await pair.call(failing))
    assert caught.value.details == {"is_full": 1, "name": "a"}
    assert await read(await pair.call(await pair.listen(count_to), b"1")) == [b"0"]
    assert not other.ended
    await other.aclose()


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

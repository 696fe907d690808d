"""What we send stays within what a peer takes in one frame, however much comes together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests._core.secured import DEADLINE_S, connect
from tests._core.test_tcp import hello_and, plane

from dynamo._core import wire
from dynamo._core.context import Context
from dynamo._core.errors import DynamoError, HandlerError, InvalidArgument, Overloaded
from dynamo._core.limits import (
    ERROR_CAUSES_MAX,
    ERROR_MESSAGE_CHARS_MAX,
    FRAME_PARTS_MAX,
    METADATA_BYTES_MAX,
    METADATA_ENTRIES_MAX,
)
from dynamo._core.request_plane.tcp import TcpPlane

__all__ = ["plane"]


async def read_frame(reader: asyncio.StreamReader) -> list[wire.Message]:
    header = await reader.readexactly(wire.HEADER.size)
    return wire.Decoder().feed(header + await reader.readexactly(wire.HEADER.unpack(header)[2]))


async def test_a_frame_never_holds_more_items_than_a_peer_takes(plane: TcpPlane) -> None:
    num_streams, num_items = 400, 500

    async def nothings(request: bytes, context: Context) -> AsyncIterator[bytes]:
        for _ in range(num_items):
            yield b""

    listener = await plane.listen(nothings)
    reader, writer = await connect(listener.address)
    writer.write(hello_and(*[wire.Request(id, "1", b"", "r", 1 << 30) for id in range(num_streams)]))
    counts: list[int] = []
    async with asyncio.timeout(DEADLINE_S):
        while sum(counts) < num_streams * num_items:
            messages = await read_frame(reader)
            counts.append(sum(len(message.items) for message in messages if isinstance(message, wire.Items)))
    assert sum(counts) == num_streams * num_items
    assert 1000 < max(counts) <= FRAME_PARTS_MAX // 4
    writer.close()


async def test_requests_that_fail_together_fail_each_whatever_they_say(plane: TcpPlane) -> None:
    num_requests = 800
    calling, running, all_run = TcpPlane(local=False), 0, asyncio.Event()

    async def fails(request: bytes, context: Context) -> AsyncIterator[bytes]:
        nonlocal running
        running += 1
        if running == num_requests:
            all_run.set()
        await all_run.wait()
        error = ValueError("x" * ERROR_MESSAGE_CHARS_MAX)
        for _ in range(ERROR_CAUSES_MAX):
            cause, error = error, ValueError("x" * ERROR_MESSAGE_CHARS_MAX)
            error.__cause__ = cause
        raise error
        yield b""

    listener = await plane.listen(fails)

    async def ask() -> BaseException:
        with pytest.raises(DynamoError) as caught:
            await anext(await calling.call(listener.address, b"", Context()))
        return caught.value

    async with asyncio.timeout(3 * DEADLINE_S):
        failures = await asyncio.gather(*(ask() for _ in range(num_requests)))
    assert {type(failure) for failure in failures} == {HandlerError}
    await calling.close()


async def test_requests_that_carry_much_besides_their_payload_end_no_connection(plane: TcpPlane) -> None:
    calling = TcpPlane(local=False)

    async def count(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield b"%d" % len(context.metadata)

    listener = await plane.listen(count)
    metadata = {f"{number:x}".rjust(32, "k"): "v" * 32 for number in range(METADATA_ENTRIES_MAX)}
    assert sum(map(len, (*metadata, *metadata.values()))) == METADATA_BYTES_MAX

    async def ask() -> list[bytes]:
        try:
            stream = await calling.call(listener.address, b"", Context(metadata=dict(metadata)))
        except Overloaded:
            return []  # before it was sent, and with the connection as it was
        return [item async for item in stream]

    answer = [b"%d" % METADATA_ENTRIES_MAX]
    async with asyncio.timeout(3 * DEADLINE_S):
        assert await ask() == answer  # the connection is there: the others leave in one turn
        answers = await asyncio.gather(*(ask() for _ in range(700)))
    assert answer in answers
    assert all(received in (answer, []) for received in answers)
    assert plane.stats.num_connections_opened == 1
    await calling.close()


async def test_metadata_of_more_entries_than_a_peer_takes_are_refused_here(plane: TcpPlane) -> None:
    listener = await plane.listen(lambda request, context: nothing())
    metadata = {str(number): "" for number in range(METADATA_ENTRIES_MAX + 1)}
    with pytest.raises(InvalidArgument, match="entries"):
        await plane.call(listener.address, b"", Context(metadata=metadata))


async def nothing() -> AsyncIterator[bytes]:
    return
    yield b""

"""A connection that is slow, greedy or closing stalls itself and nobody else, and what it holds is bounded."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator

import pytest
from tests._core.secured import DEADLINE_S, ask, connect, echo, next_messages, until_closed, where

from dynamo._core import wire
from dynamo._core.context import Context
from dynamo._core.errors import Disconnected, DynamoError, Overloaded
from dynamo._core.limits import STREAM_WINDOW_BYTES, UNREAD_BYTES_MAX, WRITE_BUFFER_BYTES
from dynamo._core.request_plane.tcp import TcpPlane


@pytest.fixture
async def plane() -> AsyncIterator[TcpPlane]:
    plane = TcpPlane(local=False)
    yield plane
    await plane.close()


class Producer:
    """A handler that yields for ever, and counts."""

    def __init__(self, item_bytes: int = 64 << 10) -> None:
        self.produced = 0
        self.ended = asyncio.Event()
        self._item = bytes(item_bytes)

    async def __call__(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        try:
            while True:
                self.produced += 1
                yield self._item
        finally:
            self.ended.set()


async def settled(producer: Producer) -> int:
    """Wait until a producer makes no progress any more; return how much it made."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            before = producer.produced
            await asyncio.sleep(0.1)
            if producer.produced == before > 0:
                return before


async def test_a_peer_that_reads_nothing_pauses_its_handlers_and_serves_the_others(plane: TcpPlane) -> None:
    producer = Producer()
    greedy, other = await plane.listen(producer), await plane.listen(echo)
    reader, writer = await connect(greedy.address)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    streams = 20
    requests = [wire.Request(id, "1", b"", "r", 1 << 60) for id in range(1, streams + 1)]  # a window without end
    writer.write(wire.encode([wire.Hello(), *requests]))
    for _ in range(50):
        assert await ask(plane, other.address) == [b"hi"]
    produced = await settled(producer)
    # What the kernel buffers is not ours to say, but it is not much; ours is one buffer and an item for each stream.
    assert produced * (64 << 10) < WRITE_BUFFER_BYTES + streams * (64 << 10) + (32 << 20)
    assert await ask(plane, other.address) == [b"hi"]
    writer.transport.abort()
    async with asyncio.timeout(DEADLINE_S):
        await producer.ended.wait()
    del reader


async def test_a_connection_that_is_closed_while_it_cannot_write_ends_its_handlers() -> None:
    serving = TcpPlane(local=False)
    producer = Producer()
    listener = await serving.listen(producer)
    reader, writer = await connect(listener.address)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(wire.encode([wire.Hello(), wire.Request(1, "1", b"", "r", 1 << 60)]))
    await settled(producer)
    async with asyncio.timeout(DEADLINE_S):
        await serving.close()
    assert producer.ended.is_set()
    assert serving.stats.num_connections == 0
    writer.close()
    del reader


async def test_cancelling_works_while_the_peer_reads_nothing(plane: TcpPlane) -> None:
    producer = Producer()
    listener = await plane.listen(producer)
    reader, writer = await connect(listener.address)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(wire.encode([wire.Hello(), wire.Request(1, "1", b"", "r", 1 << 60)]))
    await settled(producer)
    writer.write(wire.encode([wire.Cancel(1)]))
    async with asyncio.timeout(DEADLINE_S):
        await producer.ended.wait()
    writer.transport.abort()
    del reader


async def test_a_peer_that_asks_and_asks_and_reads_nothing_is_cut(
    plane: TcpPlane, caplog: pytest.LogCaptureFixture
) -> None:
    async def fails(request: bytes, context: Context) -> AsyncIterator[bytes]:
        raise ValueError("x" * 8000)
        yield b""

    greedy_listener, other = await plane.listen(fails), await plane.listen(echo)
    host, port = where(greedy_listener.address)
    loop = asyncio.get_running_loop()
    # Items would wait for the reader; an error does not, and neither does the next request.
    ids = iter(range(1, 10_000_000))
    with socket.socket() as greedy:
        greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        greedy.setblocking(False)
        await loop.sock_connect(greedy, (host, port))
        await loop.sock_sendall(greedy, wire.encode([wire.Hello()]))
        with pytest.raises((ConnectionError, BrokenPipeError)):
            async with asyncio.timeout(50):
                while True:
                    requests = [wire.Request(next(ids), "1", b"", "r", 0) for _ in range(100)]
                    await loop.sock_sendall(greedy, wire.encode(requests))
    assert plane.stats.num_unread_closed == 1
    assert "unread" in caplog.text
    assert await ask(plane, other.address) == [b"hi"]


async def test_a_caller_is_told_when_a_worker_is_slow_to_take_requests(plane: TcpPlane) -> None:
    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(wire.encode([wire.Hello()]))
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await over.wait()
        writer.transport.abort()

    over = asyncio.Event()
    server = await asyncio.start_server(deaf, "127.0.0.1", 0)
    async with server:
        address = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}/1"
        streams = []
        with pytest.raises(Overloaded, match="slow to take"):
            for _ in range(2 * UNREAD_BYTES_MAX // (4 << 20)):
                streams.append(await plane.call(address, bytes(4 << 20), Context()))
        over.set()
        for stream in streams:  # and those that were sent before end as ever
            with pytest.raises(Disconnected):
                async with asyncio.timeout(DEADLINE_S):
                    await anext(stream)


async def test_a_reader_that_is_cancelled_between_two_batches_loses_nothing(plane: TcpPlane) -> None:
    async def numbers(request: bytes, context: Context) -> AsyncIterator[bytes]:
        for number in range(2000):
            yield b"%d" % number
            if number % 7 == 0:
                await asyncio.sleep(0)

    listener = await plane.listen(numbers)
    stream = await plane.call(listener.address, b"", Context())
    items: list[bytes] = []
    turns = 0
    async with asyncio.timeout(DEADLINE_S):
        while not stream.ended or turns < 5:
            reading = asyncio.ensure_future(stream.batch())
            for _ in range(turns % 4):
                await asyncio.sleep(0)
            reading.cancel()
            turns += 1
            with contextlib.suppress(asyncio.CancelledError):
                items += await reading
        while batch := await stream.batch():
            items += batch
    assert items == [b"%d" % number for number in range(2000)]


async def test_leaving_a_stream_gives_no_credit_and_opens_none(plane: TcpPlane) -> None:
    producer = Producer()
    listener = await plane.listen(producer)
    for _ in range(5):
        producer.ended.clear()
        stream = await plane.call(listener.address, b"", Context())
        await anext(stream)
        await settled(producer)
        await stream.aclose()
        async with asyncio.timeout(DEADLINE_S):
            await producer.ended.wait()
    assert await stream.batch() == []


async def test_messages_about_streams_that_are_not_there_are_dropped(plane: TcpPlane) -> None:
    listener = await plane.listen(echo)
    reader, writer = await connect(listener.address)
    strange: list[wire.Message] = [wire.Credit(9, 1 << 40), wire.Cancel(9), wire.Cancel(9, False), wire.Credit(-1, -1)]
    writer.write(wire.encode([wire.Hello(), *strange, wire.Request(1, "1", b"x", "r", 1024), *strange]))
    messages = await next_messages(reader, wire.Decoder(), 3)
    assert messages[1:] == [wire.Items(1, 0, [b"x"]), wire.Final(1, 1)]
    writer.write(wire.encode([wire.Credit(1, 1 << 40), wire.Cancel(1)]))  # it is over by now
    writer.write(wire.encode([wire.Request(2, "1", b"y", "r", 1024)]))
    assert await next_messages(reader, wire.Decoder(), 2) == [wire.Items(2, 0, [b"y"]), wire.Final(2, 1)]
    assert sum(plane.stats.frames_rejected.values()) == 0
    writer.close()


async def test_the_window_bounds_what_a_reader_that_waits_is_sent(plane: TcpPlane) -> None:
    producer = Producer()
    listener = await plane.listen(producer)
    stream = await plane.call(listener.address, b"", Context())
    await anext(stream)
    assert await settled(producer) * (64 << 10) <= STREAM_WINDOW_BYTES + 2 * (64 << 10)
    await stream.aclose()


async def test_counters_tell_what_a_plane_has_done(plane: TcpPlane) -> None:
    calling = TcpPlane(local=False)
    listener = await plane.listen(echo)
    assert await ask(calling, listener.address, bytes(100_000)) == [bytes(100_000)]
    assert calling.stats.num_connections == calling.stats.num_connections_opened == 1
    assert calling.stats.bytes_sent == plane.stats.bytes_received > 100_000
    await calling.close()
    await plane.close()
    assert calling.stats.bytes_received == plane.stats.bytes_sent > 100_000
    assert plane.stats.num_connections == calling.stats.num_connections == 0
    assert set(plane.stats.frames_rejected.values()) == set(plane.stats.hello_failures.values()) == {0}


@pytest.mark.parametrize(
    ("garbage", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "bad_magic"),
        (wire.HEADER.pack(wire.MAGIC, 0, 0xFFFFFFFF), "oversize_frame"),
        (wire.HEADER.pack(wire.MAGIC, 0, 5) + b"\xdd\x00\x01\x00\x00", "too_many_messages"),
        (wire.encode([wire.Items(1, 0, [bytes(30)] * 30_000)] * 3), "too_many_parts"),
        (wire.HEADER.pack(wire.MAGIC, 0, 2) + b"\x91\xc1", "unreadable"),
        (wire.encode([wire.Final(1, 1)]), "unexpected_message"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_frame_that_is_refused_is_counted_by_reason_and_logged_seldom(
    plane: TcpPlane, garbage: bytes, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    listener = await plane.listen(echo)
    for count in range(1, 4):
        reader, writer = await connect(listener.address)
        writer.write(wire.encode([wire.Hello()]) + garbage)
        await until_closed(reader)
        writer.close()
        assert plane.stats.frames_rejected[reason] == count
    assert len([record for record in caplog.records if "closing a connection" in record.getMessage()]) == 1
    assert await ask(plane, listener.address) == [b"hi"]


async def test_a_truncated_frame_and_then_silence_is_cut(plane: TcpPlane) -> None:
    listener = await plane.listen(echo)
    reader, writer = await connect(listener.address)
    writer.write(wire.encode([wire.Hello()]) + wire.encode([wire.Request(1, "1", bytes(1000), "r", 1)])[:-1])
    await until_closed(reader)
    writer.close()
    assert plane.stats.num_connections == 0
    with pytest.raises(DynamoError):
        await ask(plane, listener.address.replace("/1?", "/99?"))

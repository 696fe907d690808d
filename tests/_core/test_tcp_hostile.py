"""Peers that are hostile, slow or dead, and endings at bad moments: nothing hangs, nothing leaks."""

from __future__ import annotations

import asyncio
import math
import socket
import sys
import time
from collections.abc import AsyncIterator

import pytest
from tests._core.secured import DEADLINE_S, connect, echo, read_messages, until_closed
from tests._core.test_tcp import hello_and, plane, serve_raw

from dynamo._core import wire
from dynamo._core.context import Context
from dynamo._core.errors import CannotConnect, DynamoError, HandlerError, InvalidArgument, WireError
from dynamo._core.limits import FRAME_BYTES_MAX, METADATA_BYTES_MAX, REQUEST_ID_CHARS_MAX, STREAM_WINDOW_BYTES
from dynamo._core.request_plane._connection import HELLO_TIMEOUT_S, STALL_S
from dynamo._core.request_plane.tcp import TcpPlane

__all__ = ["plane"]


async def read_until(reader: asyncio.StreamReader, kind: type[wire.Message]) -> list[wire.Message]:
    decoder = wire.Decoder()
    messages: list[wire.Message] = []
    async with asyncio.timeout(DEADLINE_S):
        while not any(isinstance(message, kind) for message in messages):
            data = await reader.read(65536)
            assert data, f"the connection ended; it had said {messages}"
            messages += decoder.feed(data)
    return messages


async def still_serves(plane: TcpPlane, address: str) -> bool:
    async with asyncio.timeout(DEADLINE_S):
        return [item async for item in await plane.call(address, b"x", Context())] == [b"x"]


@pytest.mark.parametrize(
    "request_message",
    [
        wire.Request(1, "1", b"", "r", 1024, math.nan),
        wire.Request(1, "1", b"", "r" * (REQUEST_ID_CHARS_MAX + 1), 1024),
        wire.Request(1, "1", b"", "r", 1024, None, {"key": "v" * METADATA_BYTES_MAX}),
    ],
    ids=["time is not a number", "long request id", "large metadata"],
)
async def test_a_request_beyond_the_limits_is_refused_and_costs_nobody_else(
    plane: TcpPlane, request_message: wire.Request
) -> None:
    listener = await plane.listen(echo)
    reader, writer = await connect(listener.address)
    writer.write(hello_and(request_message))
    answer = (await read_until(reader, wire.Error))[-1]
    assert isinstance(answer, wire.Error)
    assert answer.layers[0].code == InvalidArgument.code
    writer.write(wire.encode([wire.Request(2, "1", b"again", "r", 1024)]))
    assert wire.Items(2, 0, [b"again"]) in await read_until(reader, wire.Final)
    writer.close()


@pytest.mark.parametrize("timeout_s", [0.0, -5.0])
async def test_a_request_whose_time_is_up_does_not_reach_the_handler(plane: TcpPlane, timeout_s: float) -> None:
    started = False

    async def note(request: bytes, context: Context) -> AsyncIterator[bytes]:
        nonlocal started
        started = True
        yield b""

    listener = await plane.listen(note)
    reader, writer = await connect(listener.address)
    writer.write(hello_and(wire.Request(1, "1", b"", "r", 1024, timeout_s)))
    answer = (await read_until(reader, wire.Error))[-1]
    assert isinstance(answer, wire.Error)
    assert answer.layers[0].code == "deadline_exceeded"
    assert not started
    writer.close()


async def test_a_window_decides_how_much_comes_and_credit_brings_the_rest(plane: TcpPlane) -> None:
    async def many(request: bytes, context: Context) -> AsyncIterator[bytes]:
        for _ in range(100):
            yield bytes(100_000)

    listener = await plane.listen(many)
    reader, writer = await connect(listener.address)
    window_bytes = 3 * STREAM_WINDOW_BYTES  # more than we would ask for, as a newer peer might
    writer.write(hello_and(wire.Request(1, "1", b"", "r", window_bytes)))
    decoder, received = wire.Decoder(), 0
    async with asyncio.timeout(DEADLINE_S):
        while received < window_bytes:
            for message in decoder.feed(await reader.read(1 << 20)):
                received += sum(map(len, message.items)) if isinstance(message, wire.Items) else 0
    assert received <= window_bytes + 100_000
    writer.write(wire.encode([wire.Credit(1, -5), wire.Credit(77, 5), wire.Credit(1, 1 << 60), wire.Cancel(77)]))
    async with asyncio.timeout(DEADLINE_S):
        while received < 10_000_000:
            for message in decoder.feed(await reader.read(1 << 20)):
                received += sum(map(len, message.items)) if isinstance(message, wire.Items) else 0
    writer.close()


async def test_a_window_of_nothing_gets_nothing_and_can_be_left(plane: TcpPlane) -> None:
    ended = asyncio.Event()

    async def handler(request: bytes, context: Context) -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"item"
        finally:
            ended.set()

    listener = await plane.listen(handler)
    reader, writer = await connect(listener.address)
    writer.write(hello_and(wire.Request(1, "1", b"", "r", 0), wire.Request(2, "nobody", b"", "r", 0)))
    messages = await read_until(reader, wire.Error)
    assert not any(isinstance(message, wire.Items) for message in messages)
    writer.write(wire.encode([wire.Cancel(1)]))
    async with asyncio.timeout(DEADLINE_S):
        await ended.wait()
    writer.close()


async def test_a_server_that_ignores_the_window_is_not_buffered_without_end(plane: TcpPlane) -> None:
    item = bytes(8 << 20)
    frames = [wire.encode([wire.Items(1, index, [item])]) for index in range(10)]
    server, address = await serve_raw(b"".join(frames), then_close=False)
    async with server:
        stream = await plane.call(address, b"", Context())
        context = Context()
        await plane.call(address, b"", context)
        async with asyncio.timeout(DEADLINE_S):
            while not stream.ended:  # noqa: ASYNC110 - nobody reads it meanwhile
                await asyncio.sleep(0.01)
        with pytest.raises(DynamoError, match="window"):
            async for _ in stream:
                pass
        await plane.close()


async def test_a_peer_that_never_says_hello_is_cut(plane: TcpPlane) -> None:
    listener = await plane.listen(echo)
    silent, silent_writer = await connect(listener.address)
    slow, slow_writer = await connect(listener.address)
    half = hello_and()

    async def trickle() -> None:
        for byte in half[:-1]:
            slow_writer.write(bytes([byte]))
            await asyncio.sleep(1.0)

    trickling = asyncio.ensure_future(trickle())
    async with asyncio.timeout(HELLO_TIMEOUT_S + DEADLINE_S):
        await asyncio.gather(until_closed(silent), until_closed(slow))
    trickling.cancel()
    for writer in (silent_writer, slow_writer):
        writer.close()


async def test_what_cannot_be_sent_ends_its_stream_and_nobody_else(plane: TcpPlane) -> None:
    async def fails(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield b"one"
        raise FileNotFoundError("\udc80.txt")

    listener, other = await plane.listen(fails), await plane.listen(echo)
    stream = await plane.call(listener.address, b"", Context())
    async with asyncio.timeout(DEADLINE_S):
        assert await anext(stream) == b"one"
        with pytest.raises(HandlerError, match="FileNotFoundError"):
            await anext(stream)
    assert await still_serves(plane, other.address)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "tcp://",
        "tcp:///1",
        "inproc://1",
        "tcp://127.0.0.1/1",
        "tcp://127.0.0.1:/1",
        "tcp://127.0.0.1:99999/1",
        "tcp://127.0.0.1:-1/1",
        "tcp://127.0.0.1:1²/1",
        "tcp://" + "a" * 70 + ".example:1/1",
        "tcp://nul\0:1/1",
        "tcp://\udc80:1/1",
        "tcp:///1?local=\udc80",
        "tcp:///1?local=" + "x" * 500,
        "tcp://[::1/1",
        "x" * 1_000_000,
    ],
    ids=range(16),
)
async def test_an_address_that_is_none_cannot_be_reached(address: str) -> None:
    calling = TcpPlane()
    with pytest.raises(CannotConnect) as caught:
        await calling.call(address, b"", Context())
    assert len(str(caught.value)) < 1000
    await calling.close()


async def test_every_caller_of_a_peer_that_refuses_is_told_so(plane: TcpPlane) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{unused.getsockname()[1]}/1"

        async def call_until_refused() -> None:
            for _ in range(50):
                with pytest.raises(CannotConnect):
                    await plane.call(address, b"", Context())

        await asyncio.gather(*(call_until_refused() for _ in range(20)))


async def test_a_caller_who_waits_for_a_connection_is_told_when_the_plane_closes() -> None:
    calling = TcpPlane(local=False)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        address = f"tcp://127.0.0.1:{deaf.getsockname()[1]}/1"
        fillers = [socket.socket() for _ in range(4)]  # until its backlog is full
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(deaf.getsockname())
        waiting = [asyncio.ensure_future(calling.call(address, b"", Context())) for _ in range(3)]
        for _ in range(5):
            await asyncio.sleep(0)
        await calling.close()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        for filler in fillers:
            filler.close()
    assert [str(outcome) for outcome in outcomes] == ["this request plane is closed; open a new one"] * 3


async def test_a_cancelled_caller_does_not_take_the_connection_from_the_others(plane: TcpPlane) -> None:
    listener = await plane.listen(echo)
    first = asyncio.ensure_future(plane.call(listener.address, b"", Context()))
    second = asyncio.ensure_future(plane.call(listener.address, b"two", Context()))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert [item async for item in await second] == [b"two"]


async def test_a_caller_that_hangs_up_ends_its_handlers(plane: TcpPlane) -> None:
    ended = asyncio.Event()

    async def waits(request: bytes, context: Context) -> AsyncIterator[bytes]:
        try:
            yield b"begun"
            await asyncio.Event().wait()
        finally:
            ended.set()

    listener = await plane.listen(waits)
    reader, writer = await connect(listener.address)
    writer.write(hello_and(wire.Request(1, "1", b"", "r", 1024)))
    await read_until(reader, wire.Items)
    writer.write_eof()  # half of the connection: it would still read
    async with asyncio.timeout(DEADLINE_S):
        await ended.wait()
    await read_messages(reader)
    assert reader.at_eof()
    writer.close()


async def test_closing_waits_until_what_was_said_has_left() -> None:
    serving = TcpPlane(local=False)
    item, num_begun = bytes(900_000), 0

    async def generous(request: bytes, context: Context) -> AsyncIterator[bytes]:
        nonlocal num_begun
        num_begun += 1
        yield item

    listener = await serving.listen(generous)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    host, port = listener.address.removeprefix("tcp://").partition("/")[0].split(":")
    await loop.sock_connect(sock, (host, int(port)))
    streams = range(1, 9)
    await loop.sock_sendall(sock, hello_and(*[wire.Request(id, "1", b"", "r", 1 << 20) for id in streams]))
    async with asyncio.timeout(DEADLINE_S):
        while num_begun < len(streams):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)  # until all is in the buffers of one side or the other
    closing = asyncio.ensure_future(serving.close())
    for _ in range(50):
        await asyncio.sleep(0)
    assert not closing.done()
    decoder, messages = wire.Decoder(), []
    async with asyncio.timeout(DEADLINE_S):
        while data := await loop.sock_recv(sock, 1 << 20):
            messages += decoder.feed(data)
        await closing
    sock.close()
    # Some were done, and some were ended; each of them was told so.
    assert sorted(m.stream_id for m in messages if isinstance(m, (wire.Final, wire.Error))) == list(streams)
    assert any(isinstance(m, wire.Final) for m in messages)


async def test_a_peer_that_reads_nothing_cannot_keep_the_plane_from_closing() -> None:
    serving = TcpPlane(local=False)

    async def generous(request: bytes, context: Context) -> AsyncIterator[bytes]:
        yield bytes(8 << 20)

    listener = await serving.listen(generous)
    reader, writer = await connect(listener.address)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(hello_and(wire.Request(1, "1", b"", "r", 1 << 20)))
    await asyncio.sleep(0.1)
    async with asyncio.timeout(DEADLINE_S):
        await serving.close()
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        async with asyncio.timeout(DEADLINE_S):
            writer.transport.resume_reading()  # type: ignore[attr-defined]
            await reader.readexactly(8 << 20)
    writer.close()


async def test_a_caller_whose_own_loop_was_blocked_does_not_blame_the_peer() -> None:
    serving = await start_ticking_process()
    calling = TcpPlane()
    try:
        assert serving.stdout is not None
        address = (await asyncio.wait_for(serving.stdout.readline(), DEADLINE_S)).decode().strip()
        stream = await calling.call(address, b"", Context())
        await anext(stream)
        time.sleep(STALL_S + 2.5)  # noqa: ASYNC251 - it is the point
        async with asyncio.timeout(DEADLINE_S):
            for _ in range(100):
                await anext(stream)
    finally:
        await calling.close()
        serving.kill()
        await serving.communicate()


TICKING = """
import asyncio
from dynamo._core.request_plane.tcp import TcpPlane

async def tick(request, context):
    while True:
        yield b"tick"
        await asyncio.sleep(0.05)

async def main():
    print((await TcpPlane().listen(tick)).address, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def start_ticking_process() -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(sys.executable, "-c", TICKING, stdout=asyncio.subprocess.PIPE)


def test_too_many_messages_in_a_frame_are_refused_before_they_are_made() -> None:
    body = b"\xdd" + (1 << 20).to_bytes(4, "big") + b"\x91\x08" * (1 << 20)
    with pytest.raises(DynamoError, match="messages"):
        wire.Decoder().feed(wire.HEADER.pack(wire.MAGIC, 0, len(body)) + body)


def test_an_error_of_any_size_fits_into_a_frame() -> None:
    layers = [WireError("unknown", "x" * 8192, {"a": "y" * 8192})] * 8
    assert len(wire.encode([wire.Error(1, 0, layers)])) < FRAME_BYTES_MAX


async def test_a_worker_that_is_stopped_cannot_be_reached_and_is_not_waited_for(plane: TcpPlane) -> None:
    async def never_greets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # as the kernel does for a process that is stopped
        writer.close()

    server = await asyncio.start_server(never_greets, "127.0.0.1", 0)
    async with server:
        with pytest.raises(CannotConnect, match="did not say hello"):
            async with asyncio.timeout(DEADLINE_S):
                await plane.call(f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}/1", b"", Context())
        await plane.close()


async def test_requests_behind_what_ends_a_connection_are_not_taken(plane: TcpPlane) -> None:
    begun = []

    async def note(request: bytes, context: Context) -> AsyncIterator[bytes]:
        begun.append(request)
        yield request

    listener = await plane.listen(note)
    reader, writer = await connect(listener.address)
    writer.write(hello_and(wire.Final(1, 0), wire.Request(1, "1", b"late", "r", 1024)))
    writer.write(wire.encode([wire.Request(2, "1", b"later", "r", 1024)]))
    await until_closed(reader)
    assert begun == []
    assert await still_serves(plane, listener.address)
    writer.close()

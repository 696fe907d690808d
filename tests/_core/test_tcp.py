"""What only sockets can get wrong: garbage, versions, lost and silent peers, who may connect."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator

import pytest
from tests._core.secured import DEADLINE_S, connect, echo, read_messages

from dynamo._core import wire
from dynamo._core.context import Context
from dynamo._core.errors import CannotConnect, ConfigError, Disconnected, StreamIncomplete
from dynamo._core.request_plane import Handler, open_request_plane
from dynamo._core.request_plane.tcp import TcpPlane


@pytest.fixture
async def plane() -> AsyncIterator[TcpPlane]:
    plane = TcpPlane(local=False)
    yield plane
    await plane.close()


def hello_and(*messages: wire.Message) -> bytes:
    return wire.encode([wire.Hello(), *messages])


async def serve_raw(replies: bytes, *, then_close: bool = True) -> tuple[asyncio.Server, str]:
    """Start a server that says hello, and answers the first request with `replies`, whatever it is."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(hello_and())
        decoder = wire.Decoder()
        while not any(isinstance(message, wire.Request) for message in decoder.feed(await reader.read(65536))):
            pass
        writer.write(replies)
        if not then_close:
            await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    return server, f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}/1"


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        wire.HEADER.pack(wire.MAGIC, 0, 0xFFFFFFFF),
        wire.encode([wire.Heartbeat()]),
        wire.encode([wire.Hello(), wire.Final(1, 0)]),
        hello_and(*[wire.Request(1, "1", b"", "r", 1024)] * 2),
    ],
    ids=["http", "length", "no hello", "client says final", "stream opened twice"],
)
async def test_a_peer_that_breaks_the_protocol_is_cut_and_nobody_else(plane: TcpPlane, garbage: bytes) -> None:
    listener = await plane.listen(echo)
    reader, writer = await connect(listener.address)
    writer.write(garbage)
    await read_messages(reader)
    assert reader.at_eof()
    writer.close()
    assert [item async for item in await plane.call(listener.address, b"still here", Context())] == [b"still here"]


async def test_a_peer_that_vanishes_is_an_error_and_never_an_end(plane: TcpPlane) -> None:
    server, address = await serve_raw(wire.encode([wire.Items(1, 0, [b"one"])]))
    async with server:
        stream = await plane.call(address, b"", Context())
        assert await anext(stream) == b"one"
        with pytest.raises(Disconnected, match="was lost"):
            await anext(stream)


@pytest.mark.parametrize(
    "messages",
    [
        [wire.Items(1, 1, [b"two"])],
        [wire.Items(1, 0, [b"one"]), wire.Items(1, 0, [b"one"])],
        [wire.Items(1, 0, [b"one"]), wire.Final(1, 2)],
    ],
    ids=["missing", "doubled", "cut short"],
)
async def test_missing_or_doubled_items_are_an_error(plane: TcpPlane, messages: list[wire.Message]) -> None:
    server, address = await serve_raw(wire.encode(messages), then_close=False)
    async with server:
        stream = await plane.call(address, b"", Context())
        with pytest.raises(StreamIncomplete):
            async with asyncio.timeout(DEADLINE_S):
                while await anext(stream):
                    pass
        await plane.close()


async def test_frames_of_streams_that_nobody_reads_are_dropped(plane: TcpPlane) -> None:
    replies: list[wire.Message] = [
        wire.Items(99, 0, [b"stale"]),
        wire.Items(1, 0, [b"mine"]),
        wire.Final(99, 1),
        wire.Final(1, 1),
    ]
    server, address = await serve_raw(wire.encode(replies), then_close=False)
    async with server:
        assert [item async for item in await plane.call(address, b"", Context())] == [b"mine"]
        await plane.close()


async def test_callers_that_come_together_share_one_connection(plane: TcpPlane) -> None:
    serving = TcpPlane(local=False)
    listener = await serving.listen(echo)
    await asyncio.gather(*(plane.call(listener.address, b"", Context()) for _ in range(10)))
    assert plane.stats.num_connections_opened == serving.stats.num_connections_opened == 1
    await serving.close()


async def test_a_refused_connection_names_the_peer(plane: TcpPlane) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(CannotConnect, match=f"cannot connect to 127.0.0.1:{port}"):
            await plane.call(f"tcp://127.0.0.1:{port}/1", b"", Context())


async def test_a_worker_that_restarts_is_reached_again(plane: TcpPlane) -> None:
    handler: Handler = echo
    for attempt in (b"first", b"second"):
        worker = TcpPlane(local=False)
        listener = await worker.listen(handler)
        assert [item async for item in await plane.call(listener.address, attempt, Context())] == [attempt]
        await worker.close()


async def test_a_host_that_others_can_reach_needs_consent() -> None:
    with pytest.raises(ConfigError, match="there are no credentials"):
        TcpPlane("192.0.2.1")
    TcpPlane("192.0.2.1", insecure=True)


@pytest.mark.parametrize(
    "url",
    [
        "tcp://0.0.0.0",
        "tcp://example.com",
        "tcp://127.0.0.1:x",
        "tcp:?color=red",
        "tcp:?insecure=yes",
        "tcp:?local",
        "udp:",
    ],
)
def test_a_wrong_url_names_the_setting(url: str) -> None:
    with pytest.raises(ConfigError, match="DYN_REQUEST_PLANE"):
        open_request_plane(url)


async def test_a_port_in_use_names_the_address() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}"):
            await TcpPlane("127.0.0.1", port).listen(echo)


@pytest.mark.skipif(sys.platform != "linux", reason="abstract Unix sockets are Linux's")
async def test_within_a_host_there_is_no_tcp_port_that_others_could_try() -> None:
    serving, calling = TcpPlane(), TcpPlane()
    listener = await serving.listen(echo)
    assert listener.address.startswith("tcp:///1?local=dynamo-")
    assert [item async for item in await calling.call(listener.address, b"hi", Context())] == [b"hi"]
    await calling.close()
    await serving.close()


@pytest.mark.skipif(sys.platform != "linux", reason="abstract Unix sockets are Linux's")
async def test_a_local_name_that_nobody_answers_falls_back_to_tcp(plane: TcpPlane) -> None:
    listener = await plane.listen(echo)
    caller = TcpPlane()
    address = f"{listener.address}&local=dynamo-on-another-host"
    assert [item async for item in await caller.call(address, b"hi", Context())] == [b"hi"]
    await caller.close()

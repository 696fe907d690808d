"""A real server: connections, their limits, and clients that leave or do not read."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.frontend.scene import (
    CHAT,
    DEADLINE_S,
    FakeModels,
    FakePipeline,
    pipeline_of,
    port_of,
    serving,
)

from dynamo._core.context import Context
from dynamo._core.errors import ConfigError
from dynamo.frontend._app import create_app
from dynamo.frontend._server import DrainingServer, open_listener
from dynamo.llm._openai import OpenAIRequest
from dynamo.runtime._http_protocol import HttpProtocol

CHUNK = b'"' + b"x" * 1000 + b'"'


def request(body: dict[str, object] | None = None, *, path: str = "/v1/chat/completions") -> bytes:
    content = json.dumps(CHAT | (body or {})).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\ncontent-length: {len(content)}"
    return head.encode() + b"\r\n\r\n" + content


class Impatient(HttpProtocol):
    head_timeout_s = 0.05
    reader_stall_s = 0.05


async def stuck(_: OpenAIRequest, __: Context) -> AsyncIterator[list[bytes]]:
    await asyncio.Event().wait()
    yield []


async def endless(_: OpenAIRequest, __: Context) -> AsyncIterator[list[bytes]]:
    while True:
        yield [CHUNK]
        await asyncio.sleep(0)


@asynccontextmanager
async def connected(server: DrainingServer) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    async with asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server), limit=1 << 24)
        try:
            yield reader, writer
        finally:
            writer.close()


async def exchange(data: bytes, protocol: type[HttpProtocol] = HttpProtocol) -> bytes:
    """Send these bytes to a new server; return all that it answers until it closes."""
    app = create_app(FakeModels(pipeline_of([b"1"])))
    async with serving(app, protocol) as server, connected(server) as (reader, writer):
        writer.write(data)
        return await reader.read()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_before_the_first_token_ends_the_work(stream: bool) -> None:
    pipeline = FakePipeline(stuck)
    async with serving(create_app(FakeModels(pipeline))) as server:
        async with connected(server) as (_, writer):
            writer.write(request({"stream": stream}))
            await pipeline.started.wait()
        async with asyncio.timeout(DEADLINE_S):
            await pipeline.closed.wait()


async def test_a_client_that_leaves_mid_stream_ends_the_work() -> None:
    pipeline = FakePipeline(endless)
    app = create_app(FakeModels(pipeline))
    async with serving(app) as server:
        async with connected(server) as (reader, writer):
            writer.write(request({"stream": True}))
            await reader.readuntil(CHUNK)
        async with asyncio.timeout(DEADLINE_S):
            await pipeline.closed.wait()
    assert len(app.active) == 0


async def test_a_client_that_closes_its_half_counts_as_gone() -> None:
    pipeline = FakePipeline(stuck)
    async with serving(create_app(FakeModels(pipeline))) as server, connected(server) as (reader, writer):
        writer.write(request({"stream": True}))
        await pipeline.started.wait()
        writer.write_eof()
        await pipeline.closed.wait()
        assert await reader.read() == b""


async def test_a_client_that_does_not_read_pauses_its_answer_and_no_other() -> None:
    produced = 0

    async def answers(chat: OpenAIRequest, _: Context) -> AsyncIterator[list[bytes]]:
        nonlocal produced
        if chat.user == "other":
            yield [b"1"]
            return
        while True:
            yield [CHUNK]
            produced += len(CHUNK)

    app = create_app(FakeModels(FakePipeline(answers)))
    async with serving(app) as server, connected(server) as (reader, writer):
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 12)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(request({"stream": True}))
        before = -1
        while produced != before or not produced:
            before = produced
            await asyncio.sleep(0.05)
        async with connected(server) as (other_reader, other_writer):
            other_writer.write(request({"user": "other"}))
            assert (await other_reader.readuntil(b"[1]")).startswith(b"HTTP/1.1 200")
        # What the kernel and the transport hold, and no more.
        assert produced < 16 << 20
        assert len(app.active) == 1
        assert not reader.at_eof()


async def test_a_client_that_does_not_read_for_long_is_cut() -> None:
    pipeline = FakePipeline(endless)
    async with serving(create_app(FakeModels(pipeline)), Impatient) as server, connected(server) as (_, writer):
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(request({"stream": True}))
        await pipeline.closed.wait()


async def test_connections_are_kept_and_send_at_once() -> None:
    options: list[int] = []

    async def answers(_: OpenAIRequest, __: Context) -> AsyncIterator[list[bytes]]:
        yield [b"1"]

    class Spy(HttpProtocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            sock = transport.get_extra_info("socket")
            options.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    app = create_app(FakeModels(FakePipeline(answers)))
    async with serving(app, Spy) as server, connected(server) as (reader, writer):
        for _ in range(3):
            writer.write(request())
            assert (await reader.readuntil(b"[1]")).startswith(b"HTTP/1.1 200")
    assert len(options) == 1
    assert options[0] != 0


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /live HTTP/1.1\r\n" + b"x: y\r\n" * 101 + b"\r\n", 431),
        (b"GET /live HTTP/1.1\r\nx: " + b"y" * (1 << 17) + b"\r\n\r\n", 431),
        (b"GET /live HTTP/1.1\r\nx: " + b"y" * (1 << 17), 431),
        (b"GET /" + b"y" * (1 << 17) + b" HTTP/1.1\r\n\r\n", 431),
        (b"nonsense\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", 400),
        (b"GET /live HTTP/1.1\r\nx: a\r\n b\r\n\r\n", 400),
        (b"GET /live HTTP/1.1\nx: a\n\n", 400),
    ],
)
async def test_a_head_that_is_wrong_or_too_large_is_refused(data: bytes, status: int) -> None:
    head, _, body = (await exchange(data)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert json.loads(body)["error"]["type"] == "invalid_request_error"


async def test_a_head_that_does_not_arrive_is_given_up() -> None:
    assert (await exchange(b"GET /live HTTP/1.1\r\nx: ", Impatient)).startswith(b"HTTP/1.1 408 ")
    assert await exchange(b"", Impatient) == b""


async def test_what_is_no_request_behind_one_that_is_answered_cuts_the_answer_and_adds_nothing_to_it() -> None:
    app = create_app(FakeModels(FakePipeline(endless)))
    async with serving(app) as server, connected(server) as (reader, writer):
        writer.write(request({"stream": True}))
        received = await reader.readuntil(CHUNK)
        writer.write(b"this is no HTTP\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                received += data
        assert received.count(b"HTTP/1.1") == 1
        assert not received.endswith(b"0\r\n\r\n")


async def test_a_next_request_that_comes_slowly_leaves_the_answer_before_it_alone() -> None:
    late = asyncio.Event()

    class Noticing(Impatient):
        def _head_is_late(self) -> None:
            super()._head_is_late()
            late.set()

    async def answers(_: OpenAIRequest, __: Context) -> AsyncIterator[list[bytes]]:
        yield [CHUNK]
        await late.wait()
        yield [CHUNK]

    app = create_app(FakeModels(FakePipeline(answers)))
    async with serving(app, Noticing) as server, connected(server) as (reader, writer):
        writer.write(request({"stream": True}))
        await reader.readuntil(CHUNK)
        writer.write(b"POST /v1/chat")
        answer, refusal = (await reader.read()).split(b"HTTP/1.1", 1)
        assert b"[DONE]" in answer
        assert refusal.startswith(b" 408")


async def test_requests_that_are_sent_ahead_are_answered_in_order() -> None:
    last = b"GET /live HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n"
    answer = await exchange(request() + request({"stream": True}) + last)
    assert answer.count(b"HTTP/1.1 200") == 3
    assert answer.index(b"[1]") < answer.index(b"[DONE]") < answer.index(b"live")


async def test_a_port_that_is_taken_is_said_in_one_line() -> None:
    taken = open_listener("127.0.0.1", 0, insecure=False)
    port = taken.getsockname()[1]
    with pytest.raises(ConfigError, match=rf"cannot listen on 127.0.0.1:{port}: .*http_port"):
        open_listener("127.0.0.1", port, insecure=False)
    taken.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com"])
def test_an_address_that_others_reach_needs_a_word(host: str) -> None:
    with pytest.raises(ConfigError, match="--insecure"):
        open_listener(host, 0, insecure=False)


@pytest.mark.parametrize("host", ["999.1.1.1", "10.0.0", "fe80::x"])
def test_what_is_no_address_is_not_said_to_be_reachable(host: str) -> None:
    with pytest.raises(ConfigError, match=f"^--http-host {host}: that is no IP address$"):
        open_listener(host, 0, insecure=False)


@pytest.mark.parametrize("host", ["192.0.2.1", "no host", "a" * 70])
def test_a_host_that_cannot_be_listened_on_is_named_with_its_option(host: str) -> None:
    with pytest.raises(ConfigError, match=f"^--http-host {host}: "):
        open_listener(host, 0, insecure=True)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems may have no such address")
def test_with_that_word_it_is_bound() -> None:
    open_listener("0.0.0.0", 0, insecure=True).close()


async def test_a_server_that_stops_lets_streams_finish() -> None:
    go = asyncio.Event()

    async def answers(_: OpenAIRequest, __: Context) -> AsyncIterator[list[bytes]]:
        yield [b"1"]
        await go.wait()
        yield [b"2"]

    app = create_app(FakeModels(FakePipeline(answers)))
    server = DrainingServer(app, open_listener("127.0.0.1", 0, insecure=False), keep_alive_s=5.0)
    await server.start()
    async with connected(server) as (reader, writer):
        writer.write(request({"stream": True}))
        await reader.readuntil(b"data: 1\n\n")
        stopping = asyncio.create_task(server.stop(DEADLINE_S))
        while not app.active.draining:  # noqa: ASYNC110
            await asyncio.sleep(0)
        go.set()
        assert (await reader.read()).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        await stopping


async def test_a_body_that_is_too_large_is_answered_although_it_is_not_read() -> None:
    app = create_app(FakeModels(pipeline_of([b"1"])), body_size_bytes_max=1 << 20)
    async with serving(app) as server, connected(server) as (reader, writer):
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n"
        size = 8 << 20
        writer.write(head + b"content-length: %d\r\n\r\n" % size + b"x" * size)
        assert (await reader.readuntil(b"}}")).startswith(b"HTTP/1.1 413 ")
        # The connection is still in step: the rest of the body is not taken for a request.
        writer.write(request())
        assert (await reader.readuntil(b"[1]")).startswith(b"HTTP/1.1 200 ")

"""Requests that offer another protocol, as Java's HttpClient does with each: they are answered as if they did not."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from tests.frontend.scene import CHAT, DEADLINE_S, FakeModels, pipeline_of, port_of, serving
from uvicorn.server import ServerState

from dynamo.frontend._app import create_app
from dynamo.runtime._http_protocol import HEADERS_MAX, HttpProtocol

H2C = (
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n"
)
BODY = json.dumps(CHAT).encode()
LIVE = b"GET /live HTTP/1.1\r\nhost: test\r\n\r\n"
ALIVE = b'{"status":"live"}'


def head(framing: bytes, offer: bytes = H2C) -> bytes:
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\n" + offer + b"Host: test\r\nContent-Type: application/json\r\n"
        b"User-Agent: Java-http-client/21\r\n" + framing + b"\r\n"
    )


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (5, body[:5], len(body) - 5, body[5:])


def post(body: bytes = BODY, offer: bytes = H2C) -> bytes:
    return head(b"Content-Length: %d\r\n" % len(body), offer) + body


@asynccontextmanager
async def talking() -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a new server."""
    async with serving(create_app(FakeModels(pipeline_of([b"1"])))) as server, asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        try:
            yield reader, writer
        finally:
            writer.close()


async def sent(*segments: bytes, ends_with: bytes = b"[1]", answers: int = 1) -> bytes:
    """Send these to a new server, a moment apart; return what it says until so many answers have ended."""
    async with talking() as (reader, writer):
        for segment in segments:
            writer.write(segment)
            await writer.drain()
            await asyncio.sleep(0.01)
        received = b"".join([await reader.readuntil(ends_with) for _ in range(answers)])
        # Whatever came before, the connection is in step.
        writer.write(LIVE)
        assert (await reader.readuntil(ALIVE)).startswith(b"HTTP/1.1 200 ")
        return received


def one_by_one(data: bytes) -> list[bytes]:
    return [bytes([byte]) for byte in data]


CHUNKED = b"Transfer-Encoding: chunked\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(BODY)


@pytest.mark.parametrize(
    "segments",
    [
        (head(LENGTH) + BODY,),
        (head(LENGTH), BODY),
        (head(LENGTH) + BODY[:7], BODY[7:20], BODY[20:]),
        (head(LENGTH)[:40], head(LENGTH)[40:] + BODY[:7], BODY[7:]),
        (head(CHUNKED) + chunked(BODY),),
        (head(CHUNKED), chunked(BODY)[:9], chunked(BODY)[9:]),
        (head(LENGTH)[:-20], *one_by_one(head(LENGTH)[-20:] + BODY[:5]), BODY[5:]),
    ],
    ids=["one segment", "body later", "body in parts", "head in parts", "chunked", "chunked later", "byte by byte"],
)
async def test_a_request_that_offers_http_2_is_answered_over_http_1(segments: tuple[bytes, ...]) -> None:
    answer = await sent(*segments)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"upgrade" not in answer.lower()


async def test_requests_that_offer_http_2_are_answered_one_after_another() -> None:
    assert (await sent(post(), post(), head(CHUNKED), chunked(BODY), answers=3)).count(b"HTTP/1.1 200 ") == 3


async def test_requests_that_offer_http_2_may_be_sent_ahead() -> None:
    ahead = post() + head(CHUNKED) + chunked(BODY) + post(offer=b"") + post()
    assert (await sent(ahead, answers=4)).count(b"HTTP/1.1 200 ") == 4


async def test_an_answer_to_an_offer_may_be_a_stream() -> None:
    body = json.dumps(CHAT | {"stream": True}).encode()
    answer = await sent(post(body), ends_with=b"0\r\n\r\n")
    assert b"data: 1\n\n" in answer
    assert b"data: [DONE]\n\n" in answer


async def test_a_client_that_offers_http_2_may_wait_to_be_asked_for_the_body() -> None:
    async with talking() as (reader, writer):
        writer.write(head(LENGTH + b"Expect: 100-continue\r\n"))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(BODY)
        assert (await reader.readuntil(b"[1]")).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "ends", [b"HTTP/1.1\r\nConnection: close, Upgrade\r\n", b"HTTP/1.0\r\nConnection: Upgrade\r\n"]
)
async def test_an_offer_on_a_connection_that_is_to_end_is_answered_before_it_does(ends: bytes) -> None:
    async with talking() as (reader, writer):
        writer.write(b"GET /live " + ends + b"Upgrade: h2c\r\nhost: test\r\n\r\n")
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(ALIVE)


async def test_an_offer_of_websockets_where_there_are_none_is_ignored_and_nothing_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        await sent(post(offer=b"Connection: Upgrade\r\nUpgrade: websocket\r\n"))
    assert not caplog.records


async def test_a_head_that_offers_http_2_and_is_too_large_is_refused() -> None:
    async with talking() as (reader, writer):
        writer.write(b"GET /live HTTP/1.1\r\n" + H2C + b"x: y\r\n" * (HEADERS_MAX - 2) + b"\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 431 ")


async def test_the_rest_of_a_body_that_offers_http_2_and_is_refused_is_not_taken_for_a_request() -> None:
    assert b" 415 " in await sent(head(LENGTH).replace(b"application/json", b"text/plain") + BODY, ends_with=b"}}")


async def test_where_websockets_are_served_their_offer_is_taken() -> None:
    class Speaking(asyncio.Protocol):
        """A protocol that tells what it was handed."""

        def __init__(self, config: uvicorn.Config, server_state: ServerState, app_state: dict[str, Any]) -> None:
            self._transport: asyncio.Transport

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            self._transport = transport

        def data_received(self, data: bytes) -> None:
            self._transport.write(b"got " + data + b"|")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("nothing of it is plain HTTP")

    config = uvicorn.Config(app, http=HttpProtocol, ws=Speaking, lifespan="off", log_config=None)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: HttpProtocol(config, ServerState(), {}), "127.0.0.1", 0)
    async with server, asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"GET /ws HTTP/1.1\r\nhost: test\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n")
        handed = await reader.readuntil(b"|")
        assert handed.startswith(b"got GET /ws HTTP/1.1\r\n")
        assert b"upgrade: websocket\r\n" in handed
        writer.write(b"frame")
        assert await reader.readuntil(b"|") == b"got frame|"
        writer.close()
        await writer.wait_closed()

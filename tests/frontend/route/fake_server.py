"""An OpenAI server that does what a test says, on a real socket, byte by byte if need be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import msgspec

DEADLINE_S = 60.0
MODELS = {"object": "list", "data": [{"id": "tiny", "object": "model", "created": 1, "owned_by": "test"}]}
EVENT_STREAM = "content-type: text/event-stream\r\n"


@dataclass
class Seen:
    """A request as it arrived."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def fields(self) -> dict[str, object]:
        return msgspec.json.decode(self.body, type=dict[str, object])


class Exchange:
    """One request, and the connection to answer it on."""

    def __init__(self, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.seen = seen
        self._reader = reader
        self._writer = writer

    async def json(self, value: object, status: str = "200 OK", headers: str = "") -> None:
        await self.answer(msgspec.json.encode(value), status, f"content-type: application/json\r\n{headers}")

    async def answer(self, body: bytes, status: str = "200 OK", headers: str = "") -> None:
        await self.raw(f"HTTP/1.1 {status}\r\n{headers}content-length: {len(body)}\r\n\r\n".encode() + body)

    async def begin(self, headers: str = EVENT_STREAM) -> None:
        await self.raw(f"HTTP/1.1 200 OK\r\n{headers}transfer-encoding: chunked\r\n\r\n".encode())

    async def chunk(self, data: bytes) -> None:
        await self.raw(b"%x\r\n%s\r\n" % (len(data), data))

    async def end(self) -> None:
        await self.raw(b"0\r\n\r\n")

    async def raw(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def abort(self) -> None:
        """Die, as far as this connection goes."""
        self._writer.transport.abort()

    async def closed(self) -> None:
        """Wait until the other side has closed the connection."""
        async with asyncio.timeout(DEADLINE_S):
            with suppress(ConnectionError):
                assert await self._reader.read(1) == b""


Answers = Callable[[Exchange], Awaitable[None]]


class FakeServer:
    """Answers `GET /v1/models` by itself, and everything else as `answers` does."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self.models: Answers = lambda exchange: exchange.json(MODELS)
        self.seen: list[Seen] = []
        self.url = ""
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen, on the same port as before if it did."""
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    async def stop(self) -> None:
        """Die: nothing listens, and every connection is gone."""
        if self._server is not None:
            self._server.close()
            self._server = None
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while (seen := await _read(reader)) is not None:
                exchange = Exchange(seen, reader, writer)
                if seen.target == "/v1/models":
                    await self.models(exchange)
                else:
                    self.seen.append(seen)
                    await self.answers(exchange)
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()


async def _read(reader: asyncio.StreamReader) -> Seen | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    first, *lines = head.strip().split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Seen(method, target, headers, await reader.readexactly(int(headers.get("content-length", "0"))))


def says(text: str, status: str = "200 OK", headers: str = "") -> Answers:
    """Answer every request with the same text, as JSON."""
    return lambda exchange: exchange.json({"text": text}, status, headers)


@asynccontextmanager
async def fake_server(answers: Answers) -> AsyncIterator[FakeServer]:
    server = FakeServer(answers)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()

"""What the suites of the request plane share: a pair of planes of each kind, and simple handlers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio
from tests._core.secured import TOKEN, Authority, with_token

from dynamo._core.context import Context
from dynamo._core.request_plane import Handler, Listener, RequestPlane, ResponseStream
from dynamo._core.request_plane.inproc import InprocPlane
from dynamo._core.request_plane.tcp import TcpPlane

DEADLINE_S = 60.0


class Pair:
    """A plane that serves and a plane that calls."""

    def __init__(self, serving: RequestPlane, calling: RequestPlane) -> None:
        self.serving = serving
        self.calling = calling

    async def listen(self, handler: Handler) -> Listener:
        return await self.serving.listen(handler)

    async def call(self, listener: Listener, request: bytes = b"", context: Context | None = None) -> ResponseStream:
        return await self.calling.call(listener.address, request, context or Context())


@pytest_asyncio.fixture(params=["inproc", "tcp", "unix", "tls"])
async def pair(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Pair]:
    serving: RequestPlane
    calling: RequestPlane
    if request.param == "inproc":
        serving = calling = InprocPlane()
    elif request.param == "tls":
        authority = Authority(tmp_path / "authority")
        serving, calling = (
            TcpPlane(local=False, credentials=with_token(TOKEN, authority.issue(name))) for name in ("one", "other")
        )
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

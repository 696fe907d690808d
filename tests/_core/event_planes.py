"""What tests of event planes share: planes that are closed at the end, and publishers that are not ours."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest_asyncio
import zmq
import zmq.asyncio

from dynamo._core.address import event_channel_key
from dynamo._core.discovery.memory import MemoryDiscovery
from dynamo._core.event_plane import EventPlane

P = TypeVar("P", bound=EventPlane)


class Opened:
    """Closes at the end what a test has opened."""

    def __init__(self) -> None:
        self.stack = AsyncExitStack()

    def __call__(self, plane: P) -> P:
        self.stack.push_async_callback(plane.close)
        return plane


@pytest_asyncio.fixture
async def opened() -> AsyncIterator[Opened]:
    opened = Opened()
    async with opened.stack:
        yield opened


@asynccontextmanager
async def raw_publisher(discovery: MemoryDiscovery, id: int, kind: int = zmq.PUB) -> AsyncIterator[zmq.asyncio.Socket]:
    """A PUB socket that discovery names as publisher of "kv", and that sends what it likes."""
    context = zmq.asyncio.Context()
    socket = context.socket(kind)
    socket.bind("tcp://127.0.0.1:*")
    address = socket.getsockopt_string(zmq.LAST_ENDPOINT)
    await discovery.put(event_channel_key("kv", id), b'{"transport":{"zmq":"%s"}}' % address.encode())
    try:
        yield socket
    finally:
        context.destroy(linger=0)


@asynccontextmanager
async def running(script: str, *arguments: str) -> AsyncIterator[Process]:
    """A process of one of the scripts beside this file, which is killed at the end."""
    path = str(Path(__file__).parent / script)
    process = await asyncio.create_subprocess_exec(sys.executable, path, *arguments, stdout=PIPE)
    try:
        yield process
    finally:
        process.kill()
        await process.wait()

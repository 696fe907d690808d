"""A network that misbehaves, between a caller and a worker: a proxy for TCP in this process.

Each direction can be delayed, slowed down, held back and let go, and cut after some bytes. What is held
back is not lost: like the segments of a real partition it arrives when the network is whole again, which
is when stale answers come.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

READ_BYTES = 64 << 10
#: What one direction holds for a delay before it reads no more.
PENDING_MAX = 64
#: RST instead of FIN when a socket with this option is closed.
_RESETS = struct.pack("ii", 1, 0)


@dataclass(eq=False)
class Direction:
    """What happens to the bytes of one direction, on every connection."""

    delay_s: float = 0.0
    jitter_s: float = 0.0
    bytes_per_s: float | None = None
    #: Every connection is cut when so many bytes have passed in this direction.
    cut_after_bytes: int | None = None
    num_bytes: int = 0
    _open: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._open.set()

    def hold(self) -> None:
        """Let nothing pass."""
        self._open.clear()

    def let_go(self) -> None:
        self._open.set()

    async def passes(self) -> None:
        """Wait until something may pass."""
        await self._open.wait()


class FaultProxy:
    """Listens at `port`, and passes each connection on to another host and port, as well as it is told to."""

    def __init__(self, host: str, port: int, rng: random.Random) -> None:
        self._upstream = (host, port)
        self._rng = rng
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.to_worker = Direction()
        self.to_caller = Direction()
        #: Connections that were ever made.
        self.num_connections = 0
        #: Connections are refused: what callers see when nothing listens.
        self.refuses = False

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def num_open(self) -> int:
        return len(self._links)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=READ_BYTES)

    def reset(self) -> int:
        """End every connection with RST on both sides; return how many there were."""
        links = list(self._links)
        for link in links:
            link.reset()
        return len(links)

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        task = asyncio.create_task(self._link(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuses:
            writer.transport.abort()
            return
        try:
            worker_reader, worker_writer = await asyncio.open_connection(*self._upstream, limit=READ_BYTES)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(writer, worker_writer)
        self._links.add(link)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(reader, worker_writer, self.to_worker, link))
                both.create_task(self._pump(worker_reader, writer, self.to_caller, link))
        except* (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._links.discard(link)
            link.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Direction, link: _Link
    ) -> None:
        """Carry one direction to its end; whichever ends first ends the connection, as a lost peer does."""
        pending: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(PENDING_MAX)
        carrying = asyncio.create_task(self._carry(pending, writer, way, link))
        loop = asyncio.get_running_loop()
        try:
            while data := await reader.read(READ_BYTES):
                due = loop.time() + way.delay_s + way.jitter_s * self._rng.random()
                await pending.put((due, data))
            await pending.put((loop.time(), b""))
            await carrying
        finally:
            carrying.cancel()
            with suppress(asyncio.CancelledError, OSError):
                await carrying
            link.close()

    async def _carry(
        self,
        pending: asyncio.Queue[tuple[float, bytes]],
        writer: asyncio.StreamWriter,
        way: Direction,
        link: _Link,
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, data = await pending.get()
            await asyncio.sleep(due - loop.time())
            await way.passes()
            if not data:
                return
            if way.bytes_per_s is not None:
                await asyncio.sleep(len(data) / way.bytes_per_s)
            if way.cut_after_bytes is not None and way.num_bytes + len(data) >= way.cut_after_bytes:
                writer.write(data[: max(0, way.cut_after_bytes - way.num_bytes)])
                way.num_bytes, way.cut_after_bytes = way.cut_after_bytes, None
                link.close()
                return
            way.num_bytes += len(data)
            writer.write(data)
            await writer.drain()


class _Link:
    """The two sockets of one connection."""

    def __init__(self, caller: asyncio.StreamWriter, worker: asyncio.StreamWriter) -> None:
        self._writers = (caller, worker)

    def reset(self) -> None:
        for writer in self._writers:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESETS)
            writer.transport.abort()

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


@asynccontextmanager
async def fault_proxy(port: int, *, host: str = "127.0.0.1", seed: int = 0) -> AsyncIterator[FaultProxy]:
    """A proxy before `port`, which does no harm until it is told to."""
    proxy = FaultProxy(host, port, random.Random(seed))
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.close()

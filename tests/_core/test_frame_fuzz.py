"""Whatever comes in, nothing of ours breaks: the connection that it came on may end, and no other one.

`DYN_FUZZ_FRAMES=1000000 pytest tests/_core/test_frame_fuzz.py -o timeout=0` tries a million frames, and
`DYN_FUZZ_SEED` other ones.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import sys
from collections.abc import AsyncIterator

import pytest
from tests._core.frame_fuzz import fuzzed
from tests._core.secured import TOKEN, ask, echo

from dynamo._core import wire
from dynamo._core.context import Context
from dynamo._core.credentials import Credentials
from dynamo._core.errors import DynamoError, ProtocolError
from dynamo._core.request_plane._connection import Connection
from dynamo._core.request_plane._stats import PlaneStats
from dynamo._core.request_plane._stream import ItemStream
from dynamo._core.request_plane._tcp_client import ClientConnection
from dynamo._core.request_plane._tcp_server import TcpServer
from dynamo._core.request_plane.tcp import TcpPlane

NUM_FRAMES = int(os.environ.get("DYN_FUZZ_FRAMES", "20000"))
SEED = int(os.environ.get("DYN_FUZZ_SEED", "1"))
#: What one connection is sent, unless it ends before.
FRAMES_PER_CONNECTION = 50


class Wire(asyncio.Transport):
    """A transport that leads nowhere."""

    def __init__(self, protocol: Connection) -> None:
        super().__init__()
        self._protocol = protocol
        self._is_over = False
        self.sent_bytes = 0
        protocol.connection_made(self)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self._is_over
        self.sent_bytes += len(data)

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        if not self._is_over:
            self._is_over = True
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    def is_closing(self) -> bool:
        return self._is_over


async def settle() -> None:
    """Let everything happen that is due."""
    for _ in range(5):
        await asyncio.sleep(0)


async def sturdy(request: bytes, context: Context) -> AsyncIterator[bytes]:
    yield request
    yield b"and more"
    await asyncio.Event().wait()


def deliver(rng: random.Random, wire_: Wire, protocol: Connection, data: bytes) -> None:
    """Hand over bytes as a socket does: in any pieces, and not after the end."""
    while data and not wire_.is_closing():
        size = len(data) if rng.random() < 0.8 else rng.randrange(1, len(data) + 1)
        protocol.data_received(data[:size])
        data = data[size:]


@pytest.mark.parametrize("credentials", [Credentials(), Credentials(TOKEN)], ids=["no token", "token"])
async def test_no_frame_breaks_a_server(credentials: Credentials) -> None:
    rng = random.Random(SEED)
    tasks_before = asyncio.all_tasks()
    stats = PlaneStats()
    server = TcpServer(credentials, stats)
    listener = server.add(sturdy)
    num_frames = 0
    while num_frames < NUM_FRAMES:
        protocol = server.connection()
        peer = Wire(protocol)
        if rng.random() < 0.95:
            deliver(rng, peer, protocol, wire.encode([wire.Hello(nonce=rng.randbytes(rng.choice((0, 32))))]))
        for _ in range(FRAMES_PER_CONNECTION):
            if peer.is_closing():
                break
            deliver(rng, peer, protocol, fuzzed(rng))
            num_frames += 1
            if rng.random() < 0.1:
                await settle()
        peer.abort()
        await settle()
    assert stats.num_connections == 0
    assert not server.connections
    assert listener.running == {}
    assert asyncio.all_tasks() == tasks_before
    if credentials.token is None:
        never = {reason for reason, count in stats.frames_rejected.items() if not count}
        assert never == {"unfinished_frame", "too_many_parts"}  # which takes time, and a megabyte
    else:
        assert stats.hello_failures["unauthorized"] > 0


async def test_no_frame_breaks_a_caller() -> None:
    rng = random.Random(SEED + 1)
    tasks_before = asyncio.all_tasks()
    stats = PlaneStats()
    num_frames = 0
    while num_frames < NUM_FRAMES:
        protocol = ClientConnection("fuzz", None, stats, lambda: None)
        peer = Wire(protocol)
        deliver(rng, peer, protocol, wire.encode([wire.Hello()]))
        readers = [asyncio.create_task(drain(protocol.open("1", b"", Context()))) for _ in range(4)]
        for _ in range(FRAMES_PER_CONNECTION):
            if peer.is_closing():
                break
            deliver(rng, peer, protocol, fuzzed(rng))
            num_frames += 1
            if rng.random() < 0.1:
                await settle()
        peer.abort()
        await asyncio.gather(*readers)
    await settle()
    assert stats.num_connections == 0
    assert asyncio.all_tasks() == tasks_before


async def drain(stream: ItemStream) -> None:
    """Read a stream: it ends, or ends with an error of ours."""
    try:
        while await stream.batch():
            pass
    except DynamoError:
        pass


def test_no_bytes_break_the_decoder() -> None:
    rng = random.Random(SEED + 2)
    decoder = wire.Decoder()
    for _ in range(NUM_FRAMES):
        try:
            for message in decoder.feed(fuzzed(rng)):
                wire.encode([message])
            reason = None
        except ProtocolError as error:
            reason = error.details["reason"]
        assert reason is None or reason in wire.REASONS
        if reason is not None or decoder.pending_bytes > 100_000:
            decoder = wire.Decoder()


@pytest.mark.skipif(sys.platform != "linux", reason="abstract Unix sockets are Linux's")
async def test_everyone_else_is_served_meanwhile() -> None:
    rng = random.Random(SEED + 3)
    serving, calling = TcpPlane(), TcpPlane()
    listener = await serving.listen(echo)
    assert await ask(calling, listener.address) == [b"hi"]
    name = listener.address.partition("local=")[2].partition("&")[0]
    loop = asyncio.get_running_loop()
    for number in range(300):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as hostile:
            hostile.connect("\0" + name)
            try:
                await loop.sock_sendall(hostile, wire.encode([wire.Hello()]) if number % 5 else b"")
                for _ in range(10):
                    await loop.sock_sendall(hostile, fuzzed(rng))
                hostile.shutdown(socket.SHUT_WR)
                async with asyncio.timeout(60):
                    while await loop.sock_recv(hostile, 65536):
                        pass
            except (BrokenPipeError, ConnectionResetError):
                pass  # it has been cut
        if number % 10 == 0:
            assert await ask(calling, listener.address) == [b"hi"]
    assert calling.stats.num_connections_opened == 1  # and it is still the first connection
    assert sum(serving.stats.frames_rejected.values()) > 100
    await calling.close()
    await serving.close()

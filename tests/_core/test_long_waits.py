"""Waits that end after many seconds, on a clock that is put forward."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from tests._core.secured import connect, echo

from dynamo._core import wire
from dynamo._core.context import Context
from dynamo._core.errors import DeadlineExceeded
from dynamo._core.limits import FRAME_BYTES_PER_TURN_MIN, STREAM_WINDOW_BYTES
from dynamo._core.request_plane._connection import FRAME_TURNS_MAX, TURN_S
from dynamo._core.request_plane.base import READER_TIMEOUT_S
from dynamo._core.request_plane.inproc import InprocPlane
from dynamo._core.request_plane.tcp import TcpPlane


class SkippingLoop(asyncio.SelectorEventLoop):
    skipped_s = 0.0

    def time(self) -> float:
        return super().time() + self.skipped_s


async def skip(seconds: float) -> None:
    """Put the clock forward, and let happen what is due."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SkippingLoop)
    loop.skipped_s += seconds
    for _ in range(10):
        await asyncio.sleep(0)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def within_time() -> None:
        await scenario()

    with asyncio.Runner(loop_factory=SkippingLoop) as runner:
        runner.run(within_time())


def test_a_reader_that_takes_nothing_for_long_loses_its_stream_and_is_told() -> None:
    async def scenario() -> None:
        full, ended = asyncio.Event(), asyncio.Event()

        async def eager(request: bytes, context: Context) -> AsyncIterator[bytes]:
            try:
                yield bytes(STREAM_WINDOW_BYTES)
                full.set()
                yield b"more than the window holds"
            finally:
                ended.set()

        plane = InprocPlane()
        stream = await plane.call((await plane.listen(eager)).address, b"", Context())
        await full.wait()
        await skip(READER_TIMEOUT_S - 1.0)
        assert not ended.is_set()
        await skip(1.0)
        await ended.wait()
        assert len(await anext(stream)) == STREAM_WINDOW_BYTES
        with pytest.raises(DeadlineExceeded, match=f"took nothing for {READER_TIMEOUT_S:.0f} s"):
            await anext(stream)
        await plane.close()

    run(scenario)


async def send_slowly(plane: TcpPlane, size_bytes: int, turns: int) -> int:
    """Begin a large frame, of which so many bytes come in a turn. Return how many turns it took to be cut."""
    listener = await plane.listen(echo)
    _, writer = await connect(listener.address)
    writer.write(wire.encode([wire.Hello()]) + wire.HEADER.pack(wire.MAGIC, 0, 32 << 20))
    await skip(0.0)
    for turn in range(turns):
        writer.write(bytes(size_bytes))
        await skip(1.01 * TURN_S)
        if not plane.stats.num_connections:
            writer.close()
            return turn
    writer.close()
    return turns


def test_a_peer_that_trickles_a_frame_is_cut_and_counted() -> None:
    async def scenario() -> None:
        plane = TcpPlane(local=False)
        turns = await send_slowly(plane, 1, 2 * FRAME_TURNS_MAX)
        assert FRAME_TURNS_MAX <= turns <= FRAME_TURNS_MAX + 2
        assert plane.stats.frames_rejected["unfinished_frame"] == 1
        await plane.close()

    run(scenario)


def test_a_frame_over_a_slow_link_may_take_its_time() -> None:
    async def scenario() -> None:
        plane = TcpPlane(local=False)
        turns = 5 * FRAME_TURNS_MAX
        assert await send_slowly(plane, FRAME_BYTES_PER_TURN_MIN, turns) == turns
        assert plane.stats.frames_rejected["unfinished_frame"] == 0
        await plane.close()

    run(scenario)


def test_frames_that_come_one_after_the_other_are_none_that_never_ends() -> None:
    """Each ends, but there is always the beginning of the next."""

    async def scenario() -> None:
        plane = TcpPlane(local=False)
        listener = await plane.listen(echo)
        _, writer = await connect(listener.address)
        frame = wire.encode([wire.Heartbeat()])
        writer.write(wire.encode([wire.Hello()]) + frame[:1])
        for _ in range(5 * FRAME_TURNS_MAX):
            writer.write(frame[1:] + frame[:1])
            await skip(1.01 * TURN_S)
        assert plane.stats.num_connections == 1
        writer.close()
        await plane.close()

    run(scenario)

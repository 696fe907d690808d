"""Waits that end after minutes, on a clock that is put forward."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from dynamo._core.context import Context
from dynamo._core.errors import Overloaded
from dynamo._core.request_plane.base import READER_TIMEOUT_S, STREAM_WINDOW_BYTES
from dynamo._core.request_plane.inproc import InprocPlane


class SkippingLoop(asyncio.SelectorEventLoop):
    skipped_s = 0.0

    def time(self) -> float:
        return super().time() + self.skipped_s


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
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SkippingLoop)
        await asyncio.sleep(0)
        assert not ended.is_set()
        loop.skipped_s += READER_TIMEOUT_S
        await ended.wait()
        assert len(await anext(stream)) == STREAM_WINDOW_BYTES
        with pytest.raises(Overloaded, match="took nothing for 600 s"):
            await anext(stream)
        await plane.close()

    with asyncio.Runner(loop_factory=SkippingLoop) as runner:
        runner.run(scenario())

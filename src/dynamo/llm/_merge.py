"""Several streams as one, in the order in which their items come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TypeVar

T = TypeVar("T")

#: What a stream hands over: an item, its error, or its end.
_Event = tuple[T | None, Exception | None]


async def merged(streams: list[AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
    """Yield the items of all streams, which run at the same time. The first error ends them all.

    Each stream is at most one item ahead of the reader.
    """
    events: asyncio.Queue[_Event[T]] = asyncio.Queue(1)
    pumps = [asyncio.create_task(_pump(stream, events)) for stream in streams]
    running = len(pumps)
    try:
        while running:
            item, error = await events.get()
            if error is not None:
                raise error
            if item is None:
                running -= 1
            else:
                yield item
    finally:
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _pump(stream: AsyncGenerator[T, None], events: asyncio.Queue[_Event[T]]) -> None:
    try:
        async with aclosing(stream) as items:
            async for item in items:
                await events.put((item, None))
    except Exception as error:
        await events.put((None, error))
    else:
        await events.put((None, None))

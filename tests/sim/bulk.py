"""An endpoint with large answers, and its readers: a producer may be ahead of its reader by so much and no more.

The account is of all of them at once, as only a simulation can keep it: what each handler has produced, and what
its reader has taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

import msgspec

from dynamo._core.context import Context
from dynamo._core.errors import DynamoError
from dynamo._core.limits import STREAM_WINDOW_BYTES
from dynamo.runtime import Client

ENDPOINT = "sim.worker.bulk"
ITEM_CHARS = 64 << 10
PRODUCE_S = 0.005
#: What has arrived and is being read, what may have been sent since, and an item at each end.
AHEAD_BYTES_MAX = 2 * (STREAM_WINDOW_BYTES + ITEM_CHARS)


class BulkRequest(msgspec.Struct):
    """Asks for so many items."""

    num_items: int


@dataclass
class Progress:
    """How far one answer is."""

    produced_bytes: int = 0
    taken_bytes: int = 0
    most_ahead_bytes: int = 0

    def produce(self, size_bytes: int) -> None:
        self.produced_bytes += size_bytes
        self.most_ahead_bytes = max(self.most_ahead_bytes, self.produced_bytes - self.taken_bytes)


class Bulk:
    """All large answers of a simulation."""

    def __init__(self) -> None:
        self.progress: dict[str, Progress] = {}

    async def produce(self, request: BulkRequest, context: Context) -> AsyncGenerator[str, None]:
        """Yield the items, far faster than a slow reader takes them: the handler of the endpoint."""
        progress = self._of(context.request_id)
        for number in range(request.num_items):
            item = item_of(context.request_id, number)
            progress.produce(len(item))
            yield item
            # Slower than the network, which would stop it as well.
            await asyncio.sleep(PRODUCE_S)

    async def read(self, client: Client, name: str, num_items: int, pause_s: float) -> str:
        """Read an answer, with a pause after each item. Return how it ended: "finished", or the code of an error.

        Raises `AssertionError` for an item that is not the one that was due.
        """
        progress, taken = self._of(name), 0
        try:
            request, context = BulkRequest(num_items), Context(name)
            stream = await client.round_robin(request, annotated=False, context=context)
            async with aclosing(stream) as items:
                async for item in items:
                    assert item == item_of(name, taken), f"{name}: item {taken} is {str(item)[:40]!r}"
                    taken += 1
                    progress.taken_bytes += ITEM_CHARS
                    await asyncio.sleep(pause_s)
        except DynamoError as error:
            return error.code
        assert taken == num_items, f"{name}: the stream just ended after {taken} of {num_items} items"
        return "finished"

    def wrongs(self) -> list[str]:
        """Which producers were not paused."""
        return [
            f"{name}: {progress.most_ahead_bytes} bytes were ahead of their reader"
            for name, progress in self.progress.items()
            if progress.most_ahead_bytes > AHEAD_BYTES_MAX
        ]

    def _of(self, name: str) -> Progress:
        return self.progress.setdefault(name, Progress())


def item_of(name: str, number: int) -> str:
    """An item that is like no other."""
    return f"{name} {number} ".ljust(ITEM_CHARS, ".")

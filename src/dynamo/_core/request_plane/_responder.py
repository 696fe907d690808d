"""The producing end of a response stream, shared by every plane.

It runs the handler, sends what it yields, pauses it when its reader is slow, and reports how it ended:
a final frame, an error, or nothing at all if the caller has left.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator

from dynamo._core.context import Context
from dynamo._core.errors import Cancelled, DynamoError, InvalidArgument
from dynamo._core.request_plane._stream import ITEM_OVERHEAD_BYTES, deadline_exceeded
from dynamo._core.request_plane.base import MESSAGE_BYTES_MAX, Handler

#: A handler that never waits gives up the loop once in so many items, so that its neighbours and the
#: connection's heartbeat get their turn.
ITEMS_PER_TURN = 128


class Responder(ABC):
    """Serves one request. A plane says how items, the end and an error leave the process."""

    __slots__ = ("_abandoned", "_begun", "_credit_bytes", "_task", "_verdict", "_waiter", "context", "count")

    def __init__(self, context: Context, window_bytes: int) -> None:
        self.context = context
        self.count = 0
        self._credit_bytes = window_bytes
        self._waiter: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._begun = False
        self._abandoned = False
        self._verdict: DynamoError | None = None

    def start(self, handler: Handler, payload: bytes) -> asyncio.Task[None]:
        """Run the handler in a task of its own."""
        self._task = asyncio.get_running_loop().create_task(self._serve(handler, payload))
        return self._task

    def add_credit(self, size_bytes: int) -> None:
        """The reader has consumed so much more."""
        self._credit_bytes += size_bytes
        self.wake()

    def wake(self) -> None:
        """Look again whether there is room to send."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def abandon(self) -> None:
        """The caller has left: end the handler and say nothing."""
        self._abandoned = True
        self._stop()

    def end(self, verdict: DynamoError) -> None:
        """End the handler and report `verdict` in its place."""
        if self._abandoned:
            return
        self._verdict = verdict
        if not self._begun:  # a task that is cancelled before its first step never runs, so it says nothing
            self._abandoned = True
            self.send_error(verdict)
        self._stop()

    def _stop(self) -> None:
        self.context.kill()
        if self._task is not None:
            self._task.cancel()

    # What a plane supplies.

    @abstractmethod
    def send_item(self, item: bytes) -> None:
        """Send item number `self.count`."""

    @abstractmethod
    def send_final(self) -> None:
        """Say that the stream is complete."""

    @abstractmethod
    def send_error(self, error: BaseException) -> None:
        """Say that the stream ended with an error."""

    @abstractmethod
    def blocked(self) -> bool:
        """True while the way to the peer is full."""

    # The story of one request.

    async def _serve(self, handler: Handler, payload: bytes) -> None:
        self._begun = True
        timer = None
        if self.context.deadline is not None:
            expire = lambda: self.end(deadline_exceeded(self.context))  # noqa: E731
            timer = asyncio.get_running_loop().call_at(self.context.deadline, expire)
        try:
            await self._pump(handler(payload, self.context))
        except asyncio.CancelledError:
            if not self._abandoned:
                self.send_error(self._verdict or Cancelled("the handler was cancelled"))
        except Exception as error:
            if not self._abandoned:
                self.send_error(self._verdict or error)
        else:
            if not self._abandoned:
                self.send_final()
        finally:
            if timer is not None:
                timer.cancel()

    async def _pump(self, items: AsyncIterator[bytes]) -> None:
        try:
            async for item in items:
                size_bytes = len(item)
                if size_bytes > MESSAGE_BYTES_MAX:
                    raise InvalidArgument(f"an item of {size_bytes} bytes exceeds the limit of {MESSAGE_BYTES_MAX}")
                self.send_item(item)
                self.count += 1
                self._credit_bytes -= size_bytes + ITEM_OVERHEAD_BYTES
                if self._credit_bytes <= 0 or self.blocked():
                    await self._room()
                elif self.count % ITEMS_PER_TURN == 1:
                    # The first item leaves before the handler goes on: it never waits for the second.
                    await asyncio.sleep(0)
        except BaseException:
            # Only here: an iterator that ran to its end has closed itself.
            aclose = getattr(items, "aclose", None)
            if aclose is not None:
                await aclose()
            raise

    async def _room(self) -> None:
        while self._credit_bytes <= 0 or self.blocked():
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

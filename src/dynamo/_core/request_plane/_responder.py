"""The producing end of a response stream, shared by every plane.

It runs the handler, sends what it yields, pauses it when its reader is slow, and reports how it ended:
a final frame, an error, or nothing at all if the caller has left. What it reports is said once, and at
once: a handler that takes its time to clean up, or ignores that it was cancelled, delays no caller.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping

from dynamo._core.context import Context
from dynamo._core.errors import Cancelled, DeadlineExceeded, EngineShutdown, HandlerError
from dynamo._core.limits import ITEM_OVERHEAD_BYTES, MESSAGE_BYTES_MAX
from dynamo._core.request_plane._stream import deadline_exceeded
from dynamo._core.request_plane.base import CLEANUP_TIMEOUT_S, READER_TIMEOUT_S, UNSENDABLE, Handler

logger = logging.getLogger(__name__)

#: A handler that never waits gives up the loop once in so many items, so that its neighbours and the
#: connection's heartbeat get their turn.
ITEMS_PER_TURN = 128


class Serving:
    """A handler, and what it has done: of every listener."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.running: dict[asyncio.Task[None], Responder] = {}
        #: The bytes of the items that were sent, of requests that have ended.
        self.sent_bytes = 0


class Responder(ABC):
    """Serves one request. A plane says how items, the end and an error leave the process."""

    __slots__ = ("_credit_bytes", "_granted_bytes", "_task", "_waiter", "context", "count", "over")

    def __init__(self, context: Context, window_bytes: int) -> None:
        self.context = context
        self.count = 0
        #: Whether the caller has been told how the stream ended, or has left; nothing more is sent.
        self.over = False
        self._credit_bytes = self._granted_bytes = window_bytes
        self._waiter: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self, serving: Serving, payload: bytes) -> asyncio.Task[None]:
        """Run the handler in a task of its own."""
        self._task = asyncio.get_running_loop().create_task(self._serve(serving, payload))
        return self._task

    def add_credit(self, size_bytes: int) -> None:
        """The reader has consumed so much more."""
        self._credit_bytes += size_bytes
        self._granted_bytes += size_bytes
        self.wake()

    def wake(self) -> None:
        """Look again whether there is room to send."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def abandon(self) -> None:
        """The caller has left: end the handler and say nothing."""
        if not self.over:
            self.over = True
            self._cancel()

    def end(self, verdict: BaseException) -> None:
        """Report `verdict` now, and end the handler."""
        if not self.over:
            self._report(verdict)
            self._cancel()

    def _cancel(self) -> None:
        # Once: a second time would interrupt the handler while it cleans up.
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

    async def _serve(self, serving: Serving, payload: bytes) -> None:
        timer = None
        if self.context.deadline is not None:
            if self.context.remaining_s() == 0:
                self._report(deadline_exceeded(self.context))
                return
            expire = lambda: self.end(deadline_exceeded(self.context))  # noqa: E731
            timer = asyncio.get_running_loop().call_at(self.context.deadline, expire)
        try:
            await self._pump(serving.handler(payload, self.context))
        except asyncio.CancelledError:
            self._report(Cancelled("the handler was cancelled"))
        except KeyboardInterrupt as error:
            self._report(error)
            raise
        except BaseException as error:  # sys.exit in a handler ends its request, not the worker
            self._report(error)
        else:
            if not self.over:
                self.over = True
                self.send_final()
        finally:
            if timer is not None:
                timer.cancel()
            # What the credit has paid for: so no item need be counted.
            serving.sent_bytes += self._granted_bytes - self._credit_bytes - ITEM_OVERHEAD_BYTES * self.count

    def _report(self, error: BaseException) -> None:
        if not self.over:
            self.over = True
            self.send_error(error)

    async def _pump(self, items: AsyncIterator[bytes]) -> None:
        try:
            async for item in items:
                size_bytes = len(item)
                if size_bytes > MESSAGE_BYTES_MAX:
                    raise self._too_large(size_bytes)
                if self._credit_bytes <= 0 or self.blocked():
                    await self._room()
                if self.over:  # and yet the handler goes on: it has swallowed its cancellation
                    raise asyncio.CancelledError
                self.send_item(item)
                self.count += 1
                self._credit_bytes -= size_bytes + ITEM_OVERHEAD_BYTES
                if self.count % ITEMS_PER_TURN == 1:
                    if getattr(items, "is_done", False):
                        return  # there was one item, which leaves together with the end
                    # The first item leaves before the handler goes on: it never waits for the second.
                    await asyncio.sleep(0)
        except BaseException:
            # Only here: an iterator that ran to its end has closed itself.
            aclose = getattr(items, "aclose", None)
            if aclose is not None:
                await aclose()
            raise

    def _too_large(self, size_bytes: int) -> HandlerError:
        """Tell of an item over the limit: the caller's process learns what it was, and this one where."""
        what = f"an item of {size_bytes} bytes exceeds the limit of {MESSAGE_BYTES_MAX}"
        logger.error("request %s: %s, so its answer ends here with an error", self.context.request_id, what)
        return HandlerError(what, type_name="ValueError", code=UNSENDABLE)

    async def _room(self) -> None:
        while not self.over and (self._credit_bytes <= 0 or self.blocked()):
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(READER_TIMEOUT_S):
                    await self._waiter
            except TimeoutError:
                raise DeadlineExceeded(f"the reader of the stream took nothing for {READER_TIMEOUT_S:.0f} s") from None
            finally:
                self._waiter = None


async def end_all(running: Mapping[asyncio.Task[None], Responder], drain_s: float) -> None:
    """Let requests finish for `drain_s` seconds, then end those that are left."""
    if running and drain_s > 0:
        await asyncio.wait(list(running), timeout=drain_s)
    left = dict(running)
    for responder in left.values():
        responder.end(EngineShutdown("the instance stopped before the request was done"))
    if left:
        _, stuck = await asyncio.wait(list(left), timeout=CLEANUP_TIMEOUT_S)
        if stuck:
            logger.warning("%d handlers still run %s s after they were cancelled", len(stuck), CLEANUP_TIMEOUT_S)

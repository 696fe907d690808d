"""The reading end of a response stream, shared by every plane.

A plane feeds it with `push`, `finish` and `fail`; the caller iterates. It keeps the count of items, so
that a missing, doubled or late one is an error and not a wrong answer. It ends exactly once: by its
final frame, by an error, or because the reader left.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

from dynamo._core.context import Context
from dynamo._core.errors import Cancelled, DeadlineExceeded, ProtocolError, StreamIncomplete
from dynamo._core.limits import ITEM_OVERHEAD_BYTES, MESSAGE_BYTES_MAX


def weight(items: list[bytes]) -> int:
    """Return what `items` take of a stream's window."""
    return sum(map(len, items)) + ITEM_OVERHEAD_BYTES * len(items)


class ItemStream(ABC):
    """Items in order, then the end or an error. A plane says how the peer hears of it."""

    __slots__ = (
        "_consumed_bytes",
        "_context",
        "_count",
        "_credit_step_bytes",
        "_ended",
        "_error",
        "_items",
        "_loop",
        "_next",
        "_timer",
        "_unread_bytes",
        "_unread_bytes_max",
        "_waiter",
    )

    def __init__(self, context: Context, window_bytes: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._items: list[bytes] = []
        self._next = 0  # position in _items of the next item to hand out
        self._count = 0  # items received
        self._unread_bytes = 0  # received and not yet handed out
        # The window may be overrun by the item that fills it, and by no more.
        self._unread_bytes_max = window_bytes + MESSAGE_BYTES_MAX + ITEM_OVERHEAD_BYTES
        self._consumed_bytes = 0  # handed out and not yet credited
        self._credit_step_bytes = window_bytes // 2
        self._ended = False
        self._error: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._context = context
        self._timer: asyncio.TimerHandle | None = None
        if context.deadline is not None:
            self._timer = self._loop.call_at(context.deadline, self._expire)

    # What a plane supplies.

    @abstractmethod
    def on_credit(self, size_bytes: int) -> None:
        """The reader has consumed so much."""

    @abstractmethod
    def on_stop(self) -> None:
        """The caller asks for a soft end."""

    @abstractmethod
    def on_end(self, abandoned: bool) -> None:
        """Called once. `abandoned` says that the reader ended the stream, so the peer has to be told."""

    # The plane's side.

    def follow_context(self) -> None:
        """End with the context, or ask the peer to. Called when the request is on its way."""
        self._context.watch(self._on_context)

    def push(self, index: int, items: list[bytes]) -> None:
        """Take items that arrived; `index` is the position of the first."""
        if self._ended:
            return
        if index != self._count:
            self._end(StreamIncomplete(f"item {index} arrived where item {self._count} was due"), abandoned=True)
            return
        self._count += len(items)
        self._unread_bytes += weight(items)
        if self._unread_bytes > self._unread_bytes_max:
            self._end(ProtocolError("the peer sent more than the window of the stream"), abandoned=True)
            return
        if self._next == len(self._items):
            self._items, self._next = items, 0
        else:
            self._items.extend(items)
        self._wake()

    def finish(self, count: int) -> None:
        """Take the final frame, which says how many items there were."""
        error = None
        if count != self._count:
            error = StreamIncomplete(f"the stream ended after {count} items, of which {self._count} arrived")
        self._end(error)

    def fail(self, error: BaseException) -> None:
        """End the stream with `error`, raised once the items before it are read."""
        self._end(error)

    @property
    def ended(self) -> bool:
        return self._ended

    @property
    def failure(self) -> BaseException | None:
        return self._error

    # The reader's side.

    def __aiter__(self) -> ItemStream:
        return self

    async def __anext__(self) -> bytes:
        while self._next == len(self._items):
            if self._ended:
                self._raise_error()
                raise StopAsyncIteration
            await self._wait()
        item = self._items[self._next]
        self._next += 1
        self._consume(len(item) + ITEM_OVERHEAD_BYTES)
        return item

    async def batch(self) -> list[bytes]:
        """Return every item that has arrived, waiting for the first; an empty list at the end."""
        while self._next == len(self._items):
            if self._ended:
                self._raise_error()
                return []
            await self._wait()
        items = self._items[self._next :] if self._next else self._items
        self._items, self._next = [], 0
        self._consume(self._unread_bytes)
        return items

    async def aclose(self) -> None:
        """Cancel the work behind the stream. A second call changes nothing."""
        self.leave()

    def leave(self) -> None:
        """What `aclose` does, for callers that cannot wait."""
        self._end(None, abandoned=True)
        self._items, self._next, self._error = [], 0, None
        self._unread_bytes = 0

    def _consume(self, size_bytes: int) -> None:
        self._unread_bytes -= size_bytes
        self._consumed_bytes += size_bytes
        if self._consumed_bytes >= self._credit_step_bytes and not self._ended:
            consumed, self._consumed_bytes = self._consumed_bytes, 0
            self.on_credit(consumed)

    async def _wait(self) -> None:
        if self._waiter is not None:
            raise RuntimeError("a response stream has one reader, and another one waits on it")
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _raise_error(self) -> None:
        # Once: later reads find the plain end, as with any exhausted iterator.
        error, self._error = self._error, None
        if error is not None:
            raise error

    # How it ends.

    def _end(self, error: BaseException | None, *, abandoned: bool = False) -> None:
        if self._ended:
            return
        self._ended = True
        self._error = error
        self._context.unwatch(self._on_context)
        if self._timer is not None:
            self._timer.cancel()
        self.on_end(abandoned)
        self._wake()

    def _expire(self) -> None:
        self._end(deadline_exceeded(self._context), abandoned=True)

    def _on_context(self, killed: bool) -> None:
        if killed:
            self._end(cancelled(self._context), abandoned=True)
        else:
            self.on_stop()


def cancelled(context: Context) -> Cancelled:
    """The error of a request that was killed."""
    return Cancelled(f"request {context.request_id} was cancelled", request_id=context.request_id)


def deadline_exceeded(context: Context) -> DeadlineExceeded:
    """The error of a request whose time is up."""
    return DeadlineExceeded(f"request {context.request_id} ran out of time", request_id=context.request_id)

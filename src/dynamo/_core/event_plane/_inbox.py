"""A subscription's queue, shared by every plane: it keeps the order, sees what is missing, and stays small.

A plane feeds it with `push` and `head`; the reader iterates. When it is full the oldest event is dropped, and
the reader is told before it hears anything newer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from dynamo._core.errors import DynamoError
from dynamo._core.event_plane.base import Event, EventStats, Gap
from dynamo._core.limits import EVENT_OVERHEAD_BYTES, EVENT_QUEUE_BYTES_MAX, EVENT_QUEUE_EVENTS_MAX, PUBLISHERS_MAX

#: An event so far behind the last one is no late duplicate: its publisher's count is not what we took it for.
LATE_MAX = EVENT_QUEUE_EVENTS_MAX


class Inbox:
    """What has arrived on one subject and was not read yet."""

    def __init__(self, subject: str, stats: EventStats, on_close: Callable[[Inbox], Awaitable[None]]) -> None:
        self.subject = subject
        self._stats = stats
        self._on_close = on_close
        self._queue: deque[Event | Gap] = deque()
        self._size_bytes = 0
        # The last sequence of each publisher; and what was dropped here of it, which is older than all that waits.
        self._last: dict[int, int] = {}
        self._dropped: dict[int, int | None] = {}
        self._ended = False
        self._waiter: asyncio.Future[None] | None = None

    # The plane's side.

    def push(self, publisher_id: int, sequence: int, payload: bytes) -> None:
        """Take one event. One that came before is ignored."""
        if not self._advance(publisher_id, sequence, missed_to=sequence - 1):
            return
        self._queue.append(Event(publisher_id, sequence, payload))
        self._size_bytes += len(payload) + EVENT_OVERHEAD_BYTES
        while len(self._queue) > EVENT_QUEUE_EVENTS_MAX or self._size_bytes > EVENT_QUEUE_BYTES_MAX:
            self._drop_oldest()
        self._notify()

    def head(self, publisher_id: int, sequence: int) -> None:
        """Learn how far a publisher has counted: what has not come by now will not come."""
        self._advance(publisher_id, sequence, missed_to=sequence)

    def end(self) -> None:
        """Nothing more will come."""
        self._ended = True
        self._notify()

    # The reader's side.

    def __aiter__(self) -> Inbox:
        return self

    async def __anext__(self) -> Event | Gap:
        if not await self._wait():
            raise StopAsyncIteration
        return self._take()

    async def batch(self) -> list[Event | Gap]:
        if not await self._wait():
            return []
        return [self._take() for _ in range(len(self._queue) + len(self._dropped))]

    async def aclose(self) -> None:
        self._queue.clear()
        self._dropped.clear()
        self._last.clear()
        self._size_bytes = 0
        self.end()
        await self._on_close(self)

    def _advance(self, publisher_id: int, sequence: int, *, missed_to: int) -> bool:
        """Move on to `sequence`; say what is missing up to `missed_to`. False if we have been there."""
        if self._ended:
            return False
        last = self._last.pop(publisher_id, None)  # and put back last, as the one heard of just now
        if last is None:
            self._make_room()
        elif last - LATE_MAX <= sequence <= last:
            self._last[publisher_id] = last
            return False
        elif sequence < last:
            self._add_gap(Gap(publisher_id, None))
        elif missed_to > last:
            self._add_gap(Gap(publisher_id, missed_to - last))
        self._last[publisher_id] = sequence
        return True

    def _make_room(self) -> None:
        if len(self._last) >= PUBLISHERS_MAX:
            forgotten = next(iter(self._last))
            del self._last[forgotten]
            self._dropped.pop(forgotten, None)

    def _add_gap(self, gap: Gap) -> None:
        self._stats.num_missed += gap.missed or 1
        self._queue.append(gap)
        self._size_bytes += EVENT_OVERHEAD_BYTES
        self._notify()

    def _drop_oldest(self) -> None:
        oldest = self._queue.popleft()
        self._size_bytes -= _weight(oldest)
        before = self._dropped.get(oldest.publisher_id, 0)
        if isinstance(oldest, Event):
            self._stats.num_missed += 1
            missed: int | None = 1
        else:
            missed = oldest.missed
        self._dropped[oldest.publisher_id] = None if before is None or missed is None else before + missed

    def _take(self) -> Event | Gap:
        if self._dropped:
            publisher_id = next(iter(self._dropped))
            return Gap(publisher_id, self._dropped.pop(publisher_id))
        item = self._queue.popleft()
        self._size_bytes -= _weight(item)
        return item

    async def _wait(self) -> bool:
        """Wait until there is something to take; False at the end."""
        while not self._queue and not self._dropped:
            if self._ended:
                return False
            if self._waiter is not None:
                raise DynamoError(f"the subscription to {self.subject!r} is being read already; subscribe again")
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        return True

    def _notify(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _weight(item: Event | Gap) -> int:
    return EVENT_OVERHEAD_BYTES + (len(item.payload) if isinstance(item, Event) else 0)

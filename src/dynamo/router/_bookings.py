"""What clients have booked with the router, and when it ends if they never say so.

A client that dies cannot free what it has booked, and a worker that seems busy for ever gets nothing any more. So a
booking of which nothing was heard for a while is freed here.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import Protocol

from dynamo.llm._kv_router.bookings import NAMED_MAX

logger = logging.getLogger(__name__)

#: So many are kept, of more the latest: one less than the router keeps, so that it never forgets one by itself.
BOOKINGS_MAX = NAMED_MAX - 1
#: How often it is looked whether one has ended.
TICK_S = 1.0


class BookingRouter(Protocol):
    """The part of `KvRouter` that knows bookings by their names."""

    async def mark_prefill_complete(self, request_id: str) -> None: ...

    async def note_tokens(self, request_id: str, num_tokens: int) -> None: ...

    async def free(self, request_id: str) -> None: ...


class Bookings:
    """The requests that are booked with a router, each until it is freed or was not heard of for so long."""

    def __init__(self, router: BookingRouter, timeout_s: float) -> None:
        self._router = router
        self._timeout_s = timeout_s
        self._now = asyncio.get_running_loop().time
        # When each of them ends, the next first.
        self._ends: OrderedDict[str, float] = OrderedDict()
        #: Freed because nothing was heard of them, and because there were too many.
        self.num_expired = 0
        self.num_dropped = 0
        self._num_dropped_said = 0

    def __len__(self) -> int:
        return len(self._ends)

    async def add(self, request_id: str) -> None:
        """The router has just booked a request."""
        self._touch(request_id)
        if len(self._ends) > BOOKINGS_MAX:
            oldest, _ = self._ends.popitem(last=False)
            self.num_dropped += 1
            await self._router.free(oldest)

    async def complete_prefill(self, request_id: str) -> bool:
        """The prompt of a request is computed. Returns whether the request is booked."""
        if request_id not in self._ends:
            return False
        self._touch(request_id)
        await self._router.mark_prefill_complete(request_id)
        return True

    async def note_tokens(self, request_id: str, num_tokens: int) -> bool:
        """So many tokens were generated. Returns whether the request is booked."""
        if request_id not in self._ends:
            return False
        self._touch(request_id)
        await self._router.note_tokens(request_id, num_tokens)
        return True

    async def free(self, request_id: str) -> bool:
        """The request has ended. Returns whether it was booked."""
        was_booked = self._ends.pop(request_id, None) is not None
        await self._router.free(request_id)
        return was_booked

    async def expire_forever(self) -> None:
        """Free what was not heard of for too long, as it becomes so, and say what was freed."""
        while True:
            await asyncio.sleep(min(TICK_S, self._timeout_s))
            if num := await self._expire():
                logger.warning(
                    "%d bookings are given back: nothing was heard of them for %g s. Does a client forget to free "
                    "what it has booked?", num, self._timeout_s,
                )  # fmt: skip
            if num := self.num_dropped - self._num_dropped_said:
                self._num_dropped_said = self.num_dropped
                logger.warning(
                    "%d bookings are given back before their time: there were more than %d. Does a client forget to "
                    "free what it has booked?", num, BOOKINGS_MAX,
                )  # fmt: skip

    async def _expire(self) -> int:
        now, num = self._now(), 0
        while self._ends and next(iter(self._ends.values())) <= now:
            request_id, _ = self._ends.popitem(last=False)
            await self._router.free(request_id)
            num += 1
        self.num_expired += num
        return num

    def _touch(self, request_id: str) -> None:
        self._ends[request_id] = self._now() + self._timeout_s
        self._ends.move_to_end(request_id)

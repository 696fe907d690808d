"""How many requests of an endpoint run at a time, how many wait for a place, and for how long.

A request that finds no place waits in a line of limited length, first come, first served, for a limited time.
Beyond either limit it is refused at once, or when its time is up, with `Overloaded`, which says after how long
another try makes sense: what the line would take at the speed of late.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

from dynamo._core.errors import InvalidArgument, Overloaded
from dynamo.runtime._arguments import check_count, check_seconds
from dynamo.runtime._measured import Measured, RejectReason

#: So many requests wait, and for so long, unless the endpoint says otherwise.
QUEUED_REQUESTS_MAX = 16
QUEUE_TIMEOUT_S = 10.0
#: A hint of when to come again is in this range.
RETRY_AFTER_MIN_S = 0.1
RETRY_AFTER_MAX_S = 60.0
#: How long a request takes, as far as is known before the first has ended.
FIRST_GUESS_S = 1.0
#: How much the newest request counts in the mean of how long they take.
NEWEST_WEIGHT = 0.2


def admission(
    measured: Measured, running_max: int | None, queued_max: int | None, queue_timeout_s: float | None
) -> Admission | None:
    """Return what lets requests in, None for an endpoint that takes them all; None of a limit is its default.

    Raises `InvalidArgument` for limits that make no sense, and for those of a line which nobody would stand in; a
    limit of a wrong type is a TypeError.
    """
    check_count("max_concurrent_requests", running_max, 1, or_none="any number")
    check_count("max_queued_requests", queued_max, 0, or_none=f"{QUEUED_REQUESTS_MAX}")
    check_seconds("queue_timeout_s", queue_timeout_s, above_zero=True, or_none=f"{QUEUE_TIMEOUT_S:g}")
    if running_max is None:
        if queued_max is not None or queue_timeout_s is not None:
            name = "queue_timeout_s" if queued_max is None else "max_queued_requests"
            raise InvalidArgument(
                f"{name} has no effect without max_concurrent_requests: no request waits while any number may run"
            )
        return None
    return Admission(
        measured,
        running_max=running_max,
        queued_max=QUEUED_REQUESTS_MAX if queued_max is None else queued_max,
        queue_timeout_s=QUEUE_TIMEOUT_S if queue_timeout_s is None else queue_timeout_s,
    )


class Admission:
    """The places of one endpoint, and the line before them."""

    def __init__(self, measured: Measured, *, running_max: int, queued_max: int, queue_timeout_s: float) -> None:
        self.clock = asyncio.get_running_loop().time
        self._measured = measured
        self._running_max = running_max
        self._queued_max = queued_max
        self._queue_timeout_s = queue_timeout_s
        # The mutable state: who runs, who waits, and how long requests took lately.
        self._running = 0
        self._queue: deque[asyncio.Future[None]] = deque()
        self._mean_s = FIRST_GUESS_S

    async def enter(self) -> None:
        """Take a place, waiting for one if need be. Raises `Overloaded`; whoever returns must `leave`."""
        if self._running < self._running_max:
            self._running += 1
            return
        if len(self._queue) >= self._queued_max:
            raise self._refusal(RejectReason.QUEUE_FULL, f"{len(self._queue)} requests wait already")
        place = asyncio.get_running_loop().create_future()
        self._queue.append(place)
        self._measured.queued += 1
        try:
            async with asyncio.timeout(self._queue_timeout_s):
                await place
        except BaseException as error:
            if place.done() and not place.cancelled():
                self._pass_on()  # it was given the place in the turn in which it left
            else:
                with contextlib.suppress(ValueError):  # one that is given up is passed by, too
                    self._queue.remove(place)
            if isinstance(error, TimeoutError):
                raise self._refusal(
                    RejectReason.QUEUE_TIMEOUT, f"no place came free within {self._queue_timeout_s:g} s"
                ) from None
            raise
        finally:
            self._measured.queued -= 1

    def leave(self, entered_at: float) -> None:
        """Give the place back, which was held since then."""
        self._mean_s += NEWEST_WEIGHT * (self.clock() - entered_at - self._mean_s)
        self._pass_on()

    def _pass_on(self) -> None:
        """Give the place to the first in the line, if there is one."""
        while self._queue:
            place = self._queue.popleft()
            if not place.done():
                place.set_result(None)
                return
        self._running -= 1

    def _refusal(self, reason: RejectReason, why: str) -> Overloaded:
        self._measured.rejected[reason] += 1
        line_s = self._mean_s * (len(self._queue) + 1) / self._running_max
        retry_after_s = round(min(max(line_s, RETRY_AFTER_MIN_S), RETRY_AFTER_MAX_S), 3)
        return Overloaded(
            f"{self._measured.endpoint} runs {self._running} requests, as many as it may, and {why}; "
            f"try again in {retry_after_s:g} s, or elsewhere",
            retry_after_s=retry_after_s,
            reason=reason.value,
        )

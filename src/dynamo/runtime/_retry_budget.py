"""How many requests may be sent a second time: a tenth of those that came, so that trouble is not multiplied.

When every instance refuses, retries are load on top of the load that made them refuse. Over a window that slides
by `SLOT_S`, retries are at most `RATIO` of the requests, or `RETRIES_MIN` if that is more, so that a quiet client
may retry, too. Time is passed in.
"""

from __future__ import annotations

from collections import deque

WINDOW_S = 10.0
SLOT_S = 1.0
RATIO = 0.1
RETRIES_MIN = 10


class RetryBudget:
    """The requests and the retries of one client in the last `WINDOW_S` seconds.

    Who sends a request adds one to `requests`, and asks for no time for it. So `turn` must be called about once
    in `SLOT_S` while requests come, and once when no more do.
    """

    def __init__(self, now: float) -> None:
        # One slot after the other: when it ended, its requests, its retries. At most WINDOW_S / SLOT_S of them.
        self._slots: deque[tuple[float, int, int]] = deque()
        self._requests_before = 0
        self._retries_before = 0
        # The slot that is open.
        self._opened_at = now
        self.requests: int = 0
        self._retries = 0

    def turn(self, now: float) -> None:
        """Close the slot if it is old enough, and forget those that are out of the window."""
        if now < self._opened_at + SLOT_S:
            return
        if self.requests or self._retries:
            self._slots.append((now, self.requests, self._retries))
        while self._slots and self._slots[0][0] <= now - WINDOW_S:
            self._slots.popleft()
        self._requests_before = sum(requests for _, requests, _ in self._slots)
        self._retries_before = sum(retries for _, _, retries in self._slots)
        self._opened_at, self.requests, self._retries = now, 0, 0

    def take(self, now: float) -> bool:
        """Return whether a request may be sent once more, and count it if so."""
        if self.left(now) < 1:
            return False
        self._retries += 1
        return True

    def left(self, now: float) -> int:
        """How many retries there are left."""
        self.turn(now)
        allowed = max(RETRIES_MIN, int(RATIO * (self._requests_before + self.requests)))
        return max(0, allowed - self._retries_before - self._retries)

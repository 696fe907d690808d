"""Lines that repeat: what a fault makes a process say for every request is counted, not written, beyond a limit.

Only lines of ours, and not those for debugging: how often an application says something is its own business.
What is left out is told: that it begins, and how many it were.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

#: Lines with one target and one template of a message that are written in a window.
LINES_PER_WINDOW = 100
WINDOW_S = 10.0
#: So many different ones are counted; what else there is in the window is written.
TEMPLATES_MAX = 1024

_OURS = "dynamo"

_Key = tuple[str, str]


class Repeats:
    """Counts what is said in a window; the caller writes what it is given, and nothing is forgotten."""

    def __init__(
        self, clock: Callable[[], float], *, lines_per_window: int = LINES_PER_WINDOW, window_s: float = WINDOW_S
    ) -> None:
        self._clock = clock
        self._limit = lines_per_window
        self._window_s = window_s
        # The mutable state: how often each was said in the window that ends then, and the level of the last.
        self._ends_at = clock() + window_s
        self._counts: dict[_Key, int] = {}
        self._levels: dict[_Key, int] = {}

    def admits(self, record: logging.LogRecord) -> bool:
        """Count a line; whether it is to be written."""
        if record.levelno <= logging.DEBUG or record.name.partition(".")[0] != _OURS:
            return True
        key = _key(record)
        if key not in self._counts and len(self._counts) >= TEMPLATES_MAX:
            return True
        count = self._counts[key] = self._counts.get(key, 0) + 1
        if count > self._limit:
            self._levels[key] = record.levelno
        return count <= self._limit

    def has_just_begun(self, record: logging.LogRecord) -> bool:
        """Whether this line, which was not admitted, is the first one to be left out."""
        return self._counts[_key(record)] == self._limit + 1

    def announcement(self, record: logging.LogRecord) -> logging.LogRecord:
        """What to write instead of the first line that is left out."""
        return _line(_key(record), record.levelno, "more lines like %r are counted for now", _key(record)[1])

    def due(self) -> list[logging.LogRecord]:
        """What to write before the next line, if a window is over: how much was left out in it."""
        now = self._clock()
        if now < self._ends_at:
            return []
        self._ends_at = now + self._window_s
        return self.rest()

    def rest(self) -> list[logging.LogRecord]:
        """How much was left out since that was last said. Counting begins anew."""
        told = [
            _line(key, level, "%d lines like %r were left out", self._counts[key] - self._limit, key[1])
            for key, level in self._levels.items()
        ]
        self._counts.clear()
        self._levels.clear()
        return told


def _key(record: logging.LogRecord) -> _Key:
    return record.name, str(record.msg)


def _line(key: _Key, level: int, message: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord(key[0], level, __file__, 0, message, args, None)

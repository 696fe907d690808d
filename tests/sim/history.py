"""What happened in a run, as lines: the last of them are kept to be read, and all of them make a hash.

Two runs of a seed have the same hash, or something in the code decides by memory addresses, the wall clock or
chance that nobody handed in.
"""

from __future__ import annotations

import hashlib
from collections import deque

TAIL_LINES = 400


class Trace:
    """The lines of one run. With `echo` each is printed as it comes."""

    def __init__(self, *, echo: bool = False) -> None:
        self.num_lines = 0
        self._echo = echo
        self._hash = hashlib.blake2b(digest_size=8)
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)

    def add(self, now_s: float, who: object, what: str) -> None:
        """Note something that must happen in every run of the seed alike."""
        line = f"{now_s:12.6f} {who} {what}"
        self.num_lines += 1
        self._hash.update(line.encode())
        self._keep(line)

    def add_unhashed(self, now_s: float, who: object, what: str) -> None:
        """Note something that may have names in it that differ from run to run, such as a line of a log."""
        self._keep(f"{now_s:12.6f} {who} {what}")

    def _keep(self, line: str) -> None:
        self._tail.append(line)
        if self._echo:
            print(line)

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def tail(self, count: int = TAIL_LINES) -> list[str]:
        return list(self._tail)[-count:]

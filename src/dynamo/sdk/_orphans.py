"""Processes whose parent has ended before them, such as an engine that put itself into a session of its own.

On Linux `dynamo serve` and each of its workers are subreapers: what a worker starts stays below that worker
for as long as it lives, whatever groups and sessions it makes, and comes to `dynamo serve` when the worker
has ended. So `dynamo serve` knows that a child which it has not started was left behind, and ends it.
Elsewhere only what stays in the process group of its worker is found.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
#: Killing a process hands its children to us: so often it is looked again whether there are more.
_ROUNDS_MAX = 32


def adopt_orphans() -> bool:
    """Have the kernel make this process the parent of what its descendants leave behind. False if it cannot.

    A process that has children already does not: what they leave behind is no business of ours.
    """
    if sys.platform != "linux" or children_of(os.getpid()):
        return False
    return int(ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)) == 0


def children_of(pid: int) -> list[int]:
    """The children of a process, by what the kernel says; none where it does not say."""
    children: list[int] = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):  # the thread has just ended
                children += map(int, (thread / "children").read_text().split())
    return children


def kill_descendants() -> None:
    """Kill everything below this process, at once."""
    for _ in range(_ROUNDS_MAX):
        below = _descendants_of(os.getpid())
        if not below:
            return
        for pid in below:
            _kill(pid)
            _reap(pid)


class Family:
    """The children of this process: those that it has started, and those that were left to it."""

    def __init__(self, *, adopts: bool) -> None:
        self._adopts = adopts
        self._started: set[int] = set()
        # How many are between their start and the moment that we learn their id: until then they look left behind.
        self._starting = 0

    @classmethod
    def adopting(cls) -> Family:
        """The family of a process that takes orphans in, if it can.

        The process may have been started with SIGCHLD ignored, and then nobody would learn how a child ended.
        """
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        return cls(adopts=adopt_orphans())

    @contextmanager
    def birth(self) -> Iterator[None]:
        """Around the start of a process, which ends with `add`."""
        self._starting += 1
        try:
            yield
        finally:
            self._starting -= 1

    def add(self, pid: int) -> None:
        self._started.add(pid)

    def remove(self, pid: int) -> None:
        """Forget a child that has ended, and end what it has left behind."""
        self._started.discard(pid)
        self.end_orphans()

    def end_orphans(self) -> None:
        """Kill the children that were left to us, and theirs. Does nothing while a process is being started."""
        if not self._adopts:
            return
        for _ in range(_ROUNDS_MAX):
            if self._starting:
                return
            orphans = [pid for pid in children_of(os.getpid()) if pid not in self._started]
            if not orphans:
                return
            for pid in orphans:
                for below in [pid, *_descendants_of(pid)]:
                    _kill(below)
                _reap(pid)


def _descendants_of(pid: int) -> list[int]:
    found: list[int] = []
    level = [pid]
    while level:
        level = [child for parent in level for child in children_of(parent) if child not in found]
        found += level
    return found


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


def _reap(pid: int) -> None:
    """Take the status of a child that may have ended; whoever else waits for it may be first."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)

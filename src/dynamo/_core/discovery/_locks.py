"""File locks: how a process shows that it lives, without having to do anything.

flock belongs to an open file, not to a name: it is let go when the last copy of the descriptor is
closed, and the kernel closes the descriptors of a process that dies, however it dies.
"""

from __future__ import annotations

import enum
import fcntl
import os
import weakref


class Lock(enum.Enum):
    """What a lease's lock says."""

    HELD = "its process lives"
    FREE = "its process is dead, or closed the lease"
    ABSENT = "there is no lock"
    UNKNOWN = "it cannot be opened"


class HeldLock:
    """An open file with a lock on it. It is held until `release`, or until the process ends."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        _held.add(self)

    @property
    def inode(self) -> int:
        return os.fstat(self._fd).st_ino

    def release(self) -> None:
        """Unlock and close. A second call changes nothing."""
        if self._fd >= 0:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            self.abandon()

    def abandon(self) -> None:
        """Close without unlocking: what a forked child does with its parent's locks."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


# A forked child shares its parent's locks and would keep dead leases alive. (A child that executes
# another program is no trouble: Python's files are closed then.)
_held: weakref.WeakSet[HeldLock] = weakref.WeakSet()


def _abandon_locks() -> None:
    for lock in list(_held):
        lock.abandon()


os.register_at_fork(after_in_child=_abandon_locks)


def try_flock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_file(fd: int, path: str) -> bool:
    """Whether `path` still names the open file."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False

"""The files behind `FileDiscovery`, and the only code that touches them.

    <id>.lock    locked (flock) for as long as the lease lives; the kernel lets go when its process dies
    <id>.keys    every key of that lease, always replaced as a whole
    000...0.keys the keys without a lease
    .work/mutex  locked while anything in the directory is changed
    .work/new    a file being written

A file gets its name by a rename, when it is complete and, if it is a lock, already held: a lock that
is free belongs to a process that is dead. The files are tiny and on a local disk or in memory, so the
calls are made directly, on the event loop. flock means little across machines: this is for one host.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import stat
import time
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from dynamo._core.discovery._locks import HeldLock, Lock, is_file, try_flock
from dynamo._core.errors import ConfigError, DynamoError, Overloaded
from dynamo._core.limits import FILE_SNAPSHOT_BYTES_MAX
from dynamo._core.stability import stable

#: The id under which keys without a lease are kept.
NO_LEASE = 0

WORK = ".work"
_MUTEX = f"{WORK}/mutex"
_NEW = f"{WORK}/new"
_NAME = re.compile(r"([0-9a-f]{16})\.(lock|keys)")
# A file system's clock ticks every few milliseconds, so a file read right after a change may change
# again and look the same. Only what has not changed for so long is recognised by its stamp.
_SETTLED_NS = 100_000_000
_WARNINGS_MAX = 256

_log = logging.getLogger(__name__)


@stable(since="0.1")
class Entry(msgspec.Struct, array_like=True, frozen=True):
    """A value, and how often its key has been set: of two entries for one key, the higher is true."""

    value: bytes
    revision: int


@stable(since="0.1")
class _Snapshot(msgspec.Struct):
    entries: dict[str, Entry]


class Stamp(NamedTuple):
    """Tells one version of a file from another."""

    inode: int
    size_bytes: int
    modified_ns: int
    changed_ns: int


class Loaded(NamedTuple):
    """What was read of a lease's keys. `entries` is None if there is no file, or none that makes sense."""

    exists: bool
    entries: dict[str, Entry] | None = None
    stamp: Stamp | None = None


def make_private_directory(path: str, setting: str = "DYN_DISCOVERY") -> None:
    """Make the directory, for this user alone; refuse one that others could write to: `setting` can name another."""
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        found = os.stat(path)
    except OSError as error:
        raise ConfigError(
            f"cannot use {path} for discovery: {error.strerror}; set {setting} to file:// and another directory",
            path=path,
        ) from error
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigError(f"{path} is not a directory; set {setting} to file:// and a directory", path=path)
    if found.st_uid != os.geteuid():
        raise ConfigError(
            f"{path} belongs to user {found.st_uid}, not to you (user {os.geteuid()}), who could forge what is in it; "
            f"set {setting} to file:// and a directory of your own",
            path=path,
        )
    if found.st_mode & 0o022:
        raise ConfigError(f"others may write to {path} and forge what is in it; run: chmod go-w {path}", path=path)


class Files:
    """One directory of leases. A caller holds the mutex while it changes anything."""

    def __init__(self, directory: str, setting: str = "DYN_DISCOVERY") -> None:
        self.directory = directory
        self._setting = setting
        self._decoder = msgspec.msgpack.Decoder(_Snapshot)
        self._warned: set[str] = set()

    def prepare(self) -> None:
        """Make the directory if it is not there; raise `ConfigError` if it cannot be used."""
        make_private_directory(self.directory, self._setting)
        make_private_directory(self._path(WORK), self._setting)

    def identity(self) -> tuple[int, int] | None:
        """Tell this directory from one that took its place; None if there is none."""
        try:
            found = os.stat(self.directory)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def try_mutex(self) -> HeldLock | None:
        """Return the mutex, or None while someone else has it."""
        path = self._path(_MUTEX)
        # Not opened for writing, and made only when it is missing: many processes do this at a time.
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except (FileNotFoundError, NotADirectoryError):
            self.prepare()
            fd = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        if try_flock(fd, fcntl.LOCK_EX) and is_file(fd, path):
            os.utime(fd)
            return HeldLock(fd)
        os.close(fd)
        return None

    def mutex_taken_ns(self) -> int:
        """Return when the mutex was last taken, on the clock of the file system."""
        try:
            return os.stat(self._path(_MUTEX)).st_mtime_ns
        except FileNotFoundError:
            return 0

    def ids(self) -> set[int]:
        """Return the ids of which there is any file."""
        found = set()
        for name in os.listdir(self.directory):
            match = _NAME.fullmatch(name)
            if match:
                found.add(int(match[1], 16))
            elif name != WORK:
                self.warn(f"{self._path(name)[:300]!r} is no file of discovery and is ignored")
        return found

    def take_lock(self, id: int) -> HeldLock:
        """Make and hold the lock of a lease."""
        fd = self._open_new()
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(fd, b"%d\n" % os.getpid())  # for people who look
            os.rename(self._path(_NEW), self._path(lock_name(id)))
        except BaseException:
            os.close(fd)
            raise
        return HeldLock(fd)

    def holds(self, id: int, lock: HeldLock) -> bool:
        """Whether the lease's lock is still this one, not removed or replaced."""
        try:
            return os.stat(self._path(lock_name(id)), follow_symlinks=False).st_ino == lock.inode
        except OSError:
            return False

    def test_lock(self, id: int) -> Lock:
        """Return what the lease's lock says. Many processes can ask at the same time."""
        path = self._path(lock_name(id))
        try:
            fd = _open_regular(path)
        except FileNotFoundError:
            return Lock.ABSENT
        except OSError as error:
            self.warn(f"cannot open {path}: {error.strerror}; it is ignored")
            return Lock.UNKNOWN
        try:
            if not try_flock(fd, fcntl.LOCK_SH):
                return Lock.HELD
            # One that was replaced while we looked has a living owner, who has just let go of the old one.
            return Lock.FREE if is_file(fd, path) else Lock.HELD
        finally:
            os.close(fd)

    def load(self, id: int, known: Stamp | None) -> Loaded | None:
        """Read the keys of a lease; None if the file still has the stamp `known`, or cannot be opened."""
        path = self._path(keys_name(id))
        try:
            if known is not None and _stamp(os.stat(path, follow_symlinks=False)) == known:
                return None
            fd = _open_regular(path)
        except FileNotFoundError:
            return Loaded(exists=False)
        except OSError as error:
            self.warn(f"cannot open {path}: {error.strerror}; it is ignored")
            return None
        with os.fdopen(fd, "rb") as file:
            found = os.fstat(fd)
            # The clock of the wall, because files are stamped with it. If it jumps, a file is read once more.
            settled = time.time_ns() - found.st_ctime_ns > _SETTLED_NS
            stamp = _stamp(found) if settled else None
            try:
                if found.st_size > FILE_SNAPSHOT_BYTES_MAX:
                    raise ValueError(f"{found.st_size} bytes are more than {FILE_SNAPSHOT_BYTES_MAX}")
                return Loaded(True, self._decoder.decode(file.read(FILE_SNAPSHOT_BYTES_MAX)).entries, stamp)
            except (ValueError, RecursionError, OSError) as error:
                self.warn(f"{path} is damaged and is ignored: {error}")
                return Loaded(True, None, stamp)

    def store(self, id: int, entries: Mapping[str, Entry]) -> None:
        """Replace the keys of a lease."""
        content = msgspec.msgpack.encode(_Snapshot(dict(entries)))
        if len(content) > FILE_SNAPSHOT_BYTES_MAX:
            raise Overloaded(f"the keys of one lease have {len(content)} bytes; at most {FILE_SNAPSHOT_BYTES_MAX} fit")
        fd = self._open_new()
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(content)
            os.rename(self._path(_NEW), self._path(keys_name(id)))
        except BaseException:
            _unlink(self._path(_NEW))
            raise

    def remove(self, id: int) -> None:
        """Remove the files of a lease that is dead."""
        _unlink(self._path(lock_name(id)))
        _unlink(self._path(keys_name(id)))

    def explain(self, error: OSError) -> DynamoError:
        """Return an error for people: what could not be done, and what to do."""
        said = f"cannot write to {self.directory}: {error.strerror or error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE):
            return Overloaded(f"{said}; free some, or set {self._setting} to another directory", path=self.directory)
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return ConfigError(f"{said}; set {self._setting} to a directory of your own", path=self.directory)
        return DynamoError(f"{said}; is something else at work in it?", path=self.directory)

    def warn(self, message: str) -> None:
        """Log a warning, once."""
        if message not in self._warned and len(self._warned) < _WARNINGS_MAX:
            self._warned.add(message)
            _log.warning("%s", message)

    def _open_new(self) -> int:
        _unlink(self._path(_NEW))  # of a process that died while it wrote
        return os.open(self._path(_NEW), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)

    def _path(self, name: str) -> str:
        return f"{self.directory}/{name}"


def lock_name(id: int) -> str:
    return f"{id:016x}.lock"


def keys_name(id: int) -> str:
    return f"{id:016x}.keys"


def parse_name(name: str) -> tuple[int, bool] | None:
    """Return the id in a file's name, and whether it is a lock's; None for any other name."""
    match = _NAME.fullmatch(name)
    return (int(match[1], 16), match[2] == "lock") if match else None


def _open_regular(path: str) -> int:
    """Open a plain file to read: no link, no pipe to wait for, no directory."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a plain file")
    return fd


def _stamp(found: os.stat_result) -> Stamp:
    return Stamp(found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)

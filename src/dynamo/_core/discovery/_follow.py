"""Keeps a view of the directory current, and its watches told.

Three things make it look. The kernel reports each change of a file (inotify); a dying process closes
its lock, so death is such a change, too. The report comes a moment before the lock is free: it is
tested again a few times. And a slow sweep finds whatever was not reported; where there is no inotify
it is a fast one, and the only means.

When files of living leases vanish or break, someone has been in the directory with other tools. The
owners put their files back; until they had time to, nothing is said to be deleted.

Everything here happens in callbacks of the loop and takes milliseconds at most.
"""

from __future__ import annotations

import asyncio
import logging
import random as random_module
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dynamo._core.discovery._files import NO_LEASE, Files, parse_name
from dynamo._core.discovery._inotify import ChangeSource, open_inotify
from dynamo._core.discovery._locks import HeldLock, Lock
from dynamo._core.discovery._view import DirectoryView
from dynamo._core.discovery._watches import Watches
from dynamo._core.discovery.status import DiscoveryStatus
from dynamo._core.errors import DynamoError

SWEEP_S = 5.0
#: Between sweeps where the kernel does not report changes.
POLL_S = 0.25
#: For how long nothing is said to be deleted after files were lost.
GRACE_S = 2.0
#: Between looks at changes that the kernel reports.
REST_S = 0.02
# When to test a lock again after its file was closed.
_RETRIES_S = (0.005, 0.02, 0.08, 0.32, 1.28)
# Reports may come as fast as they are read: now and then the watches must be told.
_DRAINS_MAX = 16

_log = logging.getLogger(__name__)


class Follower:
    """Follows one directory for the watches and the leases of one discovery."""

    def __init__(
        self,
        files: Files,
        watches: Watches,
        status: DiscoveryStatus,
        random: random_module.Random,
        *,
        use_inotify: bool,
    ) -> None:
        self.view = DirectoryView(files)
        #: What the watches have been told: the keys of all live leases.
        self.known: dict[str, bytes] = {}
        #: The leases of this process.
        self.leases: dict[int, HeldLock] = {}
        # What should be removed but could not be; somebody must look at it, and is told once.
        self._irremovable: set[int] = set()
        self._files = files
        self._watches = watches
        self._status = status
        self._random = random
        self._use_inotify = use_inotify
        # Set while following.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._source: ChangeSource | None = None
        self._identity: tuple[int, int] | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._grace_until = 0.0
        self._rest_until = 0.0

    def start(self) -> None:
        """Begin to follow, from the next `refresh` on. A second call changes nothing."""
        if self._loop is None:
            self.view.forget()
            self._loop = asyncio.get_running_loop()
            self._after("sweep", self._sweep_in_s(), self._sweep)

    def stop(self) -> None:
        """Follow no longer. A second call changes nothing."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        if self._source is not None:
            self._source.close()
        self._status.forget(self)
        self._loop = self._source = self._identity = None

    def refresh(self) -> None:
        """Look at everything now. Raises OSError or `ConfigError` if the directory cannot be read."""
        self.attach()
        self.view.rescan()
        self._status.note_well(self)
        self.tell()

    def refresh_keys(self) -> None:
        """Do the same for whoever has the mutex: nobody else changes keys meanwhile."""
        self.attach()
        self.view.rescan_keys()
        self.tell()

    def tell(self) -> None:
        """Tell the watches how the view differs from what they know."""
        current = self.view.merged()
        if self._loop is not None:
            if self.view.accident:
                self._grace_until = self._loop.time() + GRACE_S
                self._after("grace", GRACE_S, self._end_grace)
            if self._loop.time() < self._grace_until:
                current = {**self.known, **current}
            self._plan_repairs()
        self.view.accident = False
        before, self.known = self.known, current
        for key in sorted(before.keys() - current.keys()):
            self._watches.publish(key, None)
        for key, value in current.items():
            if before.get(key) != value:
                self._watches.publish(key, value)

    def drop(self, key: str) -> None:
        """Tell the watches that a key has been deleted, even where `tell` would hold it back."""
        if self.known.pop(key, None) is not None:
            self._watches.publish(key, None)

    def adopt(self, id: int, lock: HeldLock) -> None:
        """Hold a lease, and put its files back whenever they are lost."""
        self.leases[id] = lock
        self.view.kept.add(id)
        self._look(id)

    def release(self, id: int) -> None:
        """End a lease just as its process's death would: its lock is free, its files are removed later."""
        lock = self.leases.pop(id, None)
        if lock is not None:
            self.view.kept.discard(id)
            lock.release()
            self._look(id)
            self.tell()

    def attach(self) -> None:
        """Make sure that the directory is there, and that it is the one that the kernel reports about."""
        if self._loop is None:
            self.view.forget()  # nobody was looking: an old view would take every change for a loss
            self._files.prepare()
            return
        identity = self._files.identity()
        if identity is not None and identity == self._identity:
            return
        if self._identity is not None:
            _log.warning("the directory %s was removed; it is made again", self._files.directory)
        self._files.prepare()
        if self._source is not None:
            self._source.close()
            self._source = None
        if self._use_inotify:
            self._source = open_inotify(self._files.directory, self._on_change)
        self._identity = self._files.identity()

    def _on_change(self) -> None:
        # The first of many changes is looked at now, the others together: a hundred processes that
        # start at the same time would keep each other busy with looking.
        assert self._loop is not None
        assert self._source is not None
        wait_s = self._rest_until - self._loop.time()
        if wait_s > 0:
            self._source.pause()
            self._after("drain", wait_s, self._drain)
        else:
            self._drain()

    def _drain(self) -> None:
        assert self._loop is not None
        self._rest_until = self._loop.time() + REST_S
        # Looking takes time in which more may happen, such as a key moving to a file already looked
        # at. What is told must have been true at some moment, so look until nothing new is reported.
        news = False
        if self._source is not None:
            self._source.resume()
        for _ in range(_DRAINS_MAX):
            changes = self._source.drain() if self._source is not None else None
            if changes is None or changes.incomplete:
                self._look_everywhere()
                return
            if not changes.names:
                break
            for name in changes.names:
                news |= self._look_at(name, closed=name in changes.closed)
        if news:
            self.tell()

    def _look_at(self, name: str, *, closed: bool) -> bool:
        parsed = parse_name(name)
        if parsed is None:
            return False
        id, is_lock = parsed
        new = id not in self.view.leases
        if new and is_lock:
            return False  # it matters when it has keys
        news = self._look(id, lock=is_lock or new, keys=not is_lock)
        if closed and is_lock:
            self._test_again(id, 0)
        return news

    def _test_again(self, id: int, attempt: int) -> None:
        lease = self.view.leases.get(id)
        if attempt < len(_RETRIES_S) and lease is not None and lease.lock is Lock.HELD:
            self._after(f"test {id}", _RETRIES_S[attempt], self._test, id, attempt)

    def _test(self, id: int, attempt: int) -> None:
        if self._look(id, keys=False):
            self.tell()
        self._test_again(id, attempt + 1)

    def _sweep(self) -> None:
        self._after("sweep", self._sweep_in_s(), self._sweep)
        self._look_everywhere()

    def _end_grace(self) -> None:
        assert self._loop is not None
        remaining_s = self._grace_until - self._loop.time()
        if remaining_s > 0:
            self._after("grace", remaining_s, self._end_grace)
        else:
            self._look_everywhere()

    def _look_everywhere(self) -> None:
        try:
            self.refresh()
        except (OSError, DynamoError) as error:
            self._status.note_trouble(self, f"cannot follow {self._files.directory}: {error}")
            self._complain(error)

    def _look(self, id: int, *, lock: bool = True, keys: bool = True) -> bool:
        try:
            return self.view.look(id, lock=lock, keys=keys)
        except OSError as error:
            self._complain(error)
            return False

    def _damaged(self) -> list[int]:
        """Return what is ours to put back: our leases and the keys without a lease, where files are lost."""
        views = self.view.leases
        return [
            id for id in (NO_LEASE, *self.leases) if id in views and (views[id].lost or views[id].lock is not Lock.HELD)
        ]

    def _plan_repairs(self) -> None:
        if self._damaged():
            self._after("restore", self._random.uniform(0.05, 0.15), self._restore)
        for id in self.view.dead():
            if id in self._irremovable:
                continue
            # Late enough for everyone to have seen the free lock: a missing one looks like an accident.
            self._after(f"remove {id}", self._random.uniform(0.5, 1.5), self._remove, id)

    def _restore(self) -> None:
        """Put back what is ours and was lost."""
        with self._repairing() as allowed:
            for id in self._damaged() if allowed else ():
                self._restore_lease(id)

    def _restore_lease(self, id: int) -> None:
        held = self.leases.get(id)
        if held is not None and not self._files.holds(id, held):
            self.leases[id] = self._files.take_lock(id)
            held.release()
        self.view.look(id)
        lease = self.view.leases[id]
        if lease.lost:
            self._files.store(id, lease.entries)
            self.view.note(id, lease.entries)
        _log.warning("files of lease %x were lost from %s and are back", id, self._files.directory)

    def _remove(self, id: int) -> None:
        """Remove what a dead process left, unless someone else has done so."""
        if id not in self.view.dead():
            return
        with self._repairing() as allowed:
            if allowed:
                self.view.look(id)
                if id in self.view.dead():
                    self._irremovable.add(id)
                    self._files.remove(id)
                    self._irremovable.discard(id)
                    self.view.look(id)

    @contextmanager
    def _repairing(self) -> Iterator[bool]:
        """Hold the mutex, if nobody else does; plan what is still to do for later."""
        try:
            self.attach()
            mutex = self._files.try_mutex()
            try:
                yield mutex is not None
            finally:
                if mutex is not None:
                    mutex.release()
            self.tell()
        except (OSError, DynamoError) as error:
            self._complain(error)
            self._plan_repairs()

    def _complain(self, error: Exception) -> None:
        self._files.warn(f"cannot follow {self._files.directory}: {error}; what was seen last stays known")

    def _sweep_in_s(self) -> float:
        return (SWEEP_S if self._source is not None else POLL_S) * self._random.uniform(0.8, 1.2)

    def _after(self, name: str, delay_s: float, callback: Callable[..., None], *args: int) -> None:
        """Call back once after a while; a second request of the same name changes nothing."""
        if self._loop is None or name in self._timers:
            return

        def run() -> None:
            del self._timers[name]
            callback(*args)

        self._timers[name] = self._loop.call_later(delay_s, run)

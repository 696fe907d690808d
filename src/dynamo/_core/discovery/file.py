"""Discovery among the processes of one host, through files in a directory; no server.

A lease is a file lock that its process holds, so a process that is killed is seen at once and one
that is merely stopped stays alive. A put rewrites all keys of its lease: this is for the dozens of
keys that describe a process, not for a database. What the files are is told in `_files.py`, how
changes are noticed in `_follow.py`. Files of a lease that has ended are removed a second later by any
process that is there to do it, or by the next one that comes.
"""

from __future__ import annotations

import asyncio
import os
import random as random_module
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from dynamo._core.discovery._files import NO_LEASE, Entry, Files
from dynamo._core.discovery._follow import Follower
from dynamo._core.discovery._locks import HeldLock
from dynamo._core.discovery._watches import Watches, check_key, check_ttl, check_value
from dynamo._core.discovery.base import LEASE_TTL_S, Change, Lease
from dynamo._core.discovery.status import DiscoveryStatus
from dynamo._core.errors import DynamoError, NotFound, Overloaded
from dynamo._core.limits import FILE_LEASES_MAX

#: Changes take a millisecond; whoever keeps others from theirs for so long is stopped, or stuck.
MUTEX_TIMEOUT_S = 5.0
_MUTEX_RETRY_S_MAX = 0.025

_T = TypeVar("_T")


@dataclass(eq=False, slots=True)
class FileLease:
    """A lease of a `FileDiscovery`. It lives as long as this process, unless it is closed before."""

    id: int
    _discovery: FileDiscovery = field(repr=False)

    async def close(self) -> None:
        """End the lease and delete its keys. A second call changes nothing."""
        self._discovery._end(self.id)


class FileDiscovery:
    """Finds the processes that use the same directory on this host. Belongs to one event loop.

    `use_inotify=False` is for file systems that do not report changes, such as folders shared with a
    virtual machine: it looks for them several times a second instead. An error that is about the directory
    names `setting`.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        random: random_module.Random | None = None,
        use_inotify: bool = True,
        mutex_timeout_s: float = MUTEX_TIMEOUT_S,
        setting: str = "DYN_DISCOVERY",
    ) -> None:
        self._random = random or random_module.SystemRandom()
        self._files = Files(os.path.abspath(directory), setting)
        self._watches = Watches()
        #: Degraded while the directory cannot be read.
        self.status = DiscoveryStatus()
        self._follower = Follower(self._files, self._watches, self.status, self._random, use_inotify=use_inotify)
        self._mutex_timeout_s = mutex_timeout_s
        self._closed = False

    async def grant(self, ttl_s: float = LEASE_TTL_S) -> FileLease:
        """Return a lease that lives until it is closed or this process ends, however long `ttl_s` is."""
        check_ttl(ttl_s)
        try:
            return await self._change(self._take_lease)
        finally:
            self._rest()

    async def put(self, key: str, value: bytes, lease: Lease | None = None) -> None:
        """Set a key; it moves to the lease given last."""
        check_key(key)
        check_value(key, value)
        await self._change(lambda: self._place(key, value, lease))

    async def create(self, key: str, value: bytes, lease: Lease | None = None) -> bool:
        """Set a key that does not exist yet. False, and nothing changed, if it does."""
        check_key(key)
        check_value(key, value)
        return await self._change(lambda: self._place(key, value, lease, only_new=True))

    async def get_prefix(self, prefix: str) -> dict[str, bytes]:
        """Return the keys that begin with `prefix`, in order."""
        self._look(follow=False)
        known = self._follower.known
        return {key: known[key] for key in sorted(known) if key.startswith(prefix)}

    async def delete(self, key: str) -> None:
        """Delete a key; one that is not there is no error."""
        await self._change(lambda: self._remove(key))

    async def watch(self, prefix: str) -> AsyncGenerator[Change, None]:
        """Yield what exists as `Put`, then `Synced`, then each change, for ever."""
        self._look(follow=True)
        watch = self._watches.open(prefix, self._follower.known)
        try:
            while (change := await watch.next()) is not None:
                yield change
        finally:
            self._watches.forget(watch)
            self._rest()

    async def close(self) -> None:
        """End the watches and the leases that were granted here. A second call changes nothing."""
        self._closed = True
        self._watches.close()
        for id in list(self._follower.leases):
            self._end(id)
        self._follower.stop()

    async def _change(self, step: Callable[[], _T]) -> _T:
        """Run `step` while nobody else changes the directory."""
        self._check_open()
        try:
            mutex = await self._acquire_mutex()
            try:
                self._check_open()  # it may have been closed while we waited
                result = step()
                self._follower.tell()
                return result
            finally:
                mutex.release()
        except OSError as error:
            raise self._files.explain(error) from error

    async def _acquire_mutex(self) -> HeldLock:
        loop = asyncio.get_running_loop()
        delay_s = 0.001
        last_taken_ns, since = None, loop.time()
        while (mutex := self._files.try_mutex()) is None:
            if (taken_ns := self._files.mutex_taken_ns()) != last_taken_ns:
                last_taken_ns, since = taken_ns, loop.time()  # there is a queue, but it moves
            elif loop.time() - since >= self._mutex_timeout_s:
                raise Overloaded(
                    f"another process has kept {self._files.directory} locked for {self._mutex_timeout_s:g} s; "
                    "is one of them stopped? `fuser` or `lsof` on .work/mutex in it says which",
                    path=self._files.directory,
                )
            await asyncio.sleep(delay_s * self._random.uniform(0.5, 1.0))
            delay_s = min(delay_s * 2, _MUTEX_RETRY_S_MAX)
        return mutex

    def _take_lease(self) -> FileLease:
        self._follower.start()
        self._follower.attach()
        taken = self._files.ids()
        if len(taken) >= FILE_LEASES_MAX:
            raise Overloaded(f"{self._files.directory} has {FILE_LEASES_MAX} leases and takes no more")
        id = NO_LEASE
        while id == NO_LEASE or id in taken:
            id = self._random.getrandbits(63)
        self._follower.adopt(id, self._files.take_lock(id))
        return FileLease(id, self)

    def _place(self, key: str, value: bytes, lease: Lease | None, *, only_new: bool = False) -> bool:
        self._follower.refresh_keys()
        owner = NO_LEASE if lease is None else lease.id
        if lease is not None and owner not in self._follower.leases:
            raise NotFound(
                f"lease {owner:x} is closed, or was not granted by this discovery; grant a new one", lease=owner
            )
        view = self._follower.view
        if only_new:
            for id in view.holders(key):
                view.look(id)  # it may have died just now
            self._follower.tell()
            if key in self._follower.known:
                return False
        holders = view.holders(key)
        revision = 1 + max((view.leases[id].entries[key].revision for id in holders), default=0)
        # The new place first: between the two writes the key is in both, and the higher revision is true.
        self._store(owner, {**view.leases[owner].entries, key: Entry(bytes(value), revision)})
        for id in holders:
            if id != owner:
                self._store_without(id, key)
        return True

    def _remove(self, key: str) -> None:
        self._follower.refresh_keys()
        for id in self._follower.view.holders(key):
            self._store_without(id, key)
        self._follower.drop(key)

    def _store_without(self, id: int, key: str) -> None:
        entries = dict(self._follower.view.leases[id].entries)
        del entries[key]
        self._store(id, entries)

    def _store(self, id: int, entries: dict[str, Entry]) -> None:
        self._files.store(id, entries)
        self._follower.view.note(id, entries)

    def _end(self, id: int) -> None:
        self._follower.release(id)
        self._rest()

    def _look(self, *, follow: bool) -> None:
        """Know what there is now; go on following it if `follow`."""
        self._check_open()
        try:
            if follow:
                self._follower.start()
            self._follower.refresh()
        except BaseException as error:
            self._rest()
            if isinstance(error, OSError):
                raise self._files.explain(error) from error
            raise

    def _rest(self) -> None:
        """Follow only while somebody needs it."""
        if not self._follower.leases and not self._watches:
            self._follower.stop()

    def _check_open(self) -> None:
        if self._closed:
            raise DynamoError("this discovery is closed; open a new one")

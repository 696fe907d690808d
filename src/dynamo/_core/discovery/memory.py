"""Discovery within one process: the reference for every other implementation.

It uses nothing of the loop but futures, so it runs on a simulated clock. A lease lives until it is
closed; `expire` loses one on purpose, as a network would.
"""

from __future__ import annotations

import random as random_module
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from dynamo._core.discovery._watches import Watches, check_key, check_ttl, check_value
from dynamo._core.discovery.base import LEASE_TTL_S, Change, Lease
from dynamo._core.discovery.status import DiscoveryStatus
from dynamo._core.errors import DynamoError, NotFound, Overloaded
from dynamo._core.limits import MEMORY_KEYS_MAX


@dataclass(frozen=True, slots=True)
class _Entry:
    value: bytes
    lease_id: int | None


@dataclass(eq=False, slots=True)
class MemoryLease:
    """A lease of a `MemoryDiscovery`."""

    id: int
    _discovery: MemoryDiscovery = field(repr=False)

    async def close(self) -> None:
        """End the lease and delete its keys. A second call changes nothing."""
        self._discovery.expire(self)


class MemoryDiscovery:
    """Keys, leases and watches of one process; share the object to share what it holds."""

    def __init__(self, *, random: random_module.Random | None = None) -> None:
        self._random = random or random_module.SystemRandom()
        self._closed = False
        #: Never degraded: there is nothing to lose.
        self.status = DiscoveryStatus()
        # All the state there is. `_leases` has the keys of each live lease.
        self._entries: dict[str, _Entry] = {}
        self._leases: dict[int, set[str]] = {}
        self._watches = Watches()

    async def grant(self, ttl_s: float = LEASE_TTL_S) -> MemoryLease:
        """Return a lease that lives until it is closed or `expire` is called with it."""
        self._check_open()
        check_ttl(ttl_s)
        lease_id = 0
        while lease_id == 0 or lease_id in self._leases:
            lease_id = self._random.getrandbits(63)
        self._leases[lease_id] = set()
        return MemoryLease(lease_id, self)

    async def put(self, key: str, value: bytes, lease: Lease | None = None) -> None:
        """Set a key; it moves to the lease given last."""
        self._check_open()
        check_key(key)
        check_value(key, value)
        keys = None if lease is None else self._keys_of(lease)
        before = self._entries.get(key)
        if before is None and len(self._entries) >= MEMORY_KEYS_MAX:
            raise Overloaded(f"this discovery holds {MEMORY_KEYS_MAX} keys and takes no more", keys_max=MEMORY_KEYS_MAX)
        if before is not None and before.lease_id is not None:
            self._leases[before.lease_id].discard(key)
        if keys is not None:
            keys.add(key)
        self._entries[key] = _Entry(bytes(value), None if lease is None else lease.id)
        if before is None or before.value != value:
            self._watches.publish(key, bytes(value))

    async def create(self, key: str, value: bytes, lease: Lease | None = None) -> bool:
        """Set a key that does not exist yet. False, and nothing changed, if it does."""
        self._check_open()
        check_key(key)
        check_value(key, value)
        if lease is not None:
            self._keys_of(lease)
        if key in self._entries:
            return False
        await self.put(key, value, lease)
        return True

    async def get_prefix(self, prefix: str) -> dict[str, bytes]:
        """Return the keys that begin with `prefix`, in order."""
        self._check_open()
        return {key: self._entries[key].value for key in sorted(self._entries) if key.startswith(prefix)}

    async def delete(self, key: str) -> None:
        """Delete a key; one that is not there is no error."""
        self._check_open()
        self._drop(key)

    async def watch(self, prefix: str) -> AsyncGenerator[Change, None]:
        """Yield what exists as `Put`, then `Synced`, then each change, for ever."""
        self._check_open()
        watch = self._watches.open(prefix, {key: entry.value for key, entry in self._entries.items()})
        try:
            while (change := await watch.next()) is not None:
                yield change
        finally:
            self._watches.forget(watch)

    def expire(self, lease: Lease) -> None:
        """Lose a lease: its keys vanish, and a later `put` with it raises `NotFound`.

        For tests and simulations. A lease that is already gone is no error.
        """
        for key in sorted(self._leases.get(lease.id, ())):
            self._drop(key)
        self._leases.pop(lease.id, None)

    async def close(self) -> None:
        """End the watches and the leases. A second call changes nothing."""
        self._closed = True
        self._watches.close()
        self._leases.clear()
        self._entries.clear()

    def _drop(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        if entry.lease_id is not None:
            self._leases[entry.lease_id].discard(key)
        self._watches.publish(key, None)

    def _keys_of(self, lease: Lease) -> set[str]:
        keys = self._leases.get(lease.id)
        if keys is None:
            raise NotFound(
                f"lease {lease.id:x} is closed or lost, or of another discovery; grant a new one", lease=lease.id
            )
        return keys

    def _check_open(self) -> None:
        if self._closed:
            raise DynamoError("this discovery is closed; open a new one")

"""A discovery server for the simulation, and the connection that each host has to it.

It keeps the meanings of `dynamo._core.discovery.base` as the shipped one on etcd does: a lease is renewed while
its host runs and reaches the server, ends otherwise, and is granted anew with its keys when its host is back.
What can go wrong: the server is away, a host does not reach it, changes come late and several at once, a lease is
lost, and an operation that was done is not confirmed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from tests.sim.host import Host
from tests.sim.loop import SimLoop
from tests.sim.outside import outside

from dynamo._core.discovery._watches import Watch, check_key, check_ttl, check_value
from dynamo._core.discovery.base import LEASE_TTL_S, Change, Delete, Lease, Put
from dynamo._core.discovery.status import DiscoveryStatus
from dynamo._core.errors import CannotConnect, DynamoError, NotFound

R = TypeVar("R")

#: An operation on a server that is away fails after so long.
TIMEOUT_S = 2.0
BEAT_S = 0.5


@dataclass(eq=False)
class SimLease:
    """A lease of a host."""

    id: int
    ttl_s: float
    owner: SimDiscovery = field(repr=False)
    keys: dict[str, bytes] = field(default_factory=dict)
    #: What is to be deleted as soon as the server can be told.
    doomed: dict[str, None] = field(default_factory=dict)
    renewed_at: float = 0.0
    #: Whether the server has it.
    is_held: bool = True
    is_closed: bool = False

    async def close(self) -> None:
        """End the lease and delete its keys. A second call changes nothing."""
        await self.owner.end(self)


class Feed:
    """One watch: what changed at the server, on its way to a host, in order and late."""

    def __init__(self, server: DiscoveryServer, host: Host, prefix: str) -> None:
        self.prefix = prefix
        self.watch = Watch(prefix, {key: value for key, (value, _) in server.entries.items()})
        #: What the reader was told.
        self.known: dict[str, bytes] = {}
        self._server = server
        self._host = host
        # What is on its way: the time of its arrival, the key, and its value or None.
        self._coming: deque[tuple[float, str, bytes | None]] = deque()
        self._arrival_s = 0.0
        self._scheduled = False

    def add(self, key: str, value: bytes | None) -> None:
        if not key.startswith(self.prefix):
            return
        now = self._server.loop.time()
        self._arrival_s = max(self._arrival_s, now + self._server.random.uniform(*self._server.lag_s))
        self._coming.append((self._arrival_s, key, value))
        self._schedule(self._arrival_s)

    def _schedule(self, at_s: float) -> None:
        if not self._scheduled and self._coming:
            self._scheduled = True
            outside(self._server.loop, at_s, self._deliver)

    def _deliver(self) -> None:
        self._scheduled = False
        if self._host.is_dead or self not in self._server.feeds:
            return
        now = self._server.loop.time()
        if not self._server.is_reached_by(self._host):
            self._schedule(now + BEAT_S)
            return
        while self._coming and self._coming[0][0] <= now:
            _, key, value = self._coming.popleft()
            # The process takes it when it runs; `Watch` joins what it was not told yet.
            self._server.loop.note(f"hears of {key}{' gone' if value is None else ''}", self._host)
            self.watch.add(key, value)
        if self._coming:
            self._schedule(self._coming[0][0])

    def note(self, change: Change) -> None:
        """The reader takes this change."""
        if isinstance(change, Put):
            self.known[change.key] = change.value
        elif isinstance(change, Delete):
            self.known.pop(change.key, None)


class SimDiscovery:
    """What one host has of the server: a `Discovery`."""

    make_feed = Feed

    def __init__(self, server: DiscoveryServer, host: Host) -> None:
        self.host = host
        self.status = DiscoveryStatus()
        self.feeds: dict[Feed, None] = {}
        self._server = server
        self._closed = False

    def leases(self) -> list[SimLease]:
        """The leases that were granted here and have not ended."""
        return [lease for lease in self._server.leases.values() if lease.owner is self and not lease.is_closed]

    async def grant(self, ttl_s: float = LEASE_TTL_S) -> SimLease:
        """Return a lease that is kept alive until it is closed or its process ends."""
        self._check_open()
        check_ttl(ttl_s)
        lease = SimLease(self._server.random.randrange(1, 1 << 63), ttl_s, self)

        def grant() -> SimLease:
            lease.renewed_at = self._server.loop.time()
            self._server.leases[lease.id] = lease
            return lease

        try:
            return await self._ask(grant)
        except BaseException:
            lease.is_closed = True  # nobody renews it
            raise

    async def put(self, key: str, value: bytes, lease: Lease | None = None) -> None:
        """Set a key; it moves to the lease given last."""
        held = self._check(key, value, lease)
        await self._ask(lambda: self._put(key, value, held))

    async def create(self, key: str, value: bytes, lease: Lease | None = None) -> bool:
        """Set a key that does not exist yet. False, and nothing changed, if it does."""
        held = self._check(key, value, lease)

        def create() -> bool:
            if key in self._server.entries:
                return False
            self._put(key, value, held)
            return True

        return await self._ask(create)

    async def get_prefix(self, prefix: str) -> dict[str, bytes]:
        """Return the keys that begin with `prefix`, in order."""
        self._check_open()
        entries = self._server.entries
        return await self._ask(lambda: {key: entries[key][0] for key in sorted(entries) if key.startswith(prefix)})

    async def delete(self, key: str) -> None:
        """Delete a key; one that is not there is no error. One of an own lease goes later if the server is away."""
        self._check_open()
        owners = [lease for lease in self._server.leases.values() if lease.owner is self and key in lease.keys]
        for lease in owners:
            lease.doomed[key] = None  # first, for whoever gives up waiting for it

        def drop() -> None:
            if not owners or any(key in lease.doomed for lease in owners):
                self._server.drop(key)

        try:
            await self._ask(drop)
        except CannotConnect:
            if not owners:
                raise
        else:
            for lease in owners:
                lease.doomed.pop(key, None)

    async def watch(self, prefix: str) -> AsyncGenerator[Change, None]:
        """Yield what exists as `Put`, then `Synced`, then each change, for ever."""
        self._check_open()
        await self._way()
        feed = self._open(prefix)
        try:
            await self._way()
            while (change := await feed.watch.next()) is not None:
                feed.note(change)
                yield change
        finally:
            self._forget(feed)

    async def close(self) -> None:
        """End the watches and the leases that were granted here. A second call changes nothing."""
        self._closed = True
        for feed in list(self.feeds):
            feed.watch.close()
            self._forget(feed)
        for lease in list(self._server.leases.values()):
            if lease.owner is self:
                await self.end(lease)

    async def end(self, lease: SimLease) -> None:
        """End a lease."""
        if lease.is_closed:
            return
        lease.is_closed = True
        with contextlib.suppress(CannotConnect):  # then it ends by itself: nobody renews it
            await self._ask(lambda: self._server.end(lease))

    def _open(self, prefix: str) -> Feed:
        feed = self.make_feed(self._server, self.host, prefix)
        self.feeds[feed] = None
        self._server.feeds[feed] = None
        return feed

    def _forget(self, feed: Feed) -> None:
        self.feeds.pop(feed, None)
        self._server.feeds.pop(feed, None)

    def _put(self, key: str, value: bytes, lease: SimLease | None) -> None:
        if lease is not None and lease.is_closed:
            raise NotFound(f"lease {lease.id:x} is closed; grant a new one")
        if lease is not None and not lease.is_held:
            raise NotFound(f"lease {lease.id:x} is lost")
        if lease is not None:
            lease.doomed.pop(key, None)  # it is wanted again
        self._server.set(key, value, lease)

    async def _ask(self, work: Callable[[], R]) -> R:
        """Have the server do something. Raises `CannotConnect` if it does not answer, whether it did it or not."""
        await self._way()
        result = work()
        await self._way()
        return result

    async def _way(self) -> None:
        server, loop = self._server, self._server.loop
        give_up_at = loop.time() + TIMEOUT_S
        await asyncio.sleep(server.random.uniform(0.0002, 0.003))
        while not server.is_reached_by(self.host):
            if loop.time() >= give_up_at:
                raise CannotConnect("discovery does not answer")
            await asyncio.sleep(0.1)

    def _check(self, key: str, value: bytes, lease: Lease | None) -> SimLease | None:
        self._check_open()
        check_key(key)
        check_value(key, value)
        if lease is None:
            return None
        held = self._server.leases.get(lease.id)
        if held is None:
            raise NotFound(f"lease {lease.id:x} is closed, or of another discovery; grant a new one")
        return held

    def _check_open(self) -> None:
        if self._closed:
            raise DynamoError("this discovery is closed; open a new one")


class DiscoveryServer:
    """All keys and leases of one simulation."""

    make_party = SimDiscovery

    def __init__(self, loop: SimLoop) -> None:
        self.loop = loop
        self.random = loop.random
        #: Whether it answers nobody.
        self.is_down = False
        #: How long a change takes to reach a watch.
        self.lag_s = (0.0005, 0.01)
        self.entries: dict[str, tuple[bytes, SimLease | None]] = {}
        self.leases: dict[int, SimLease] = {}
        self.feeds: dict[Feed, None] = {}
        self.parties: dict[Host, SimDiscovery] = {}
        self._cut_off: dict[Host, None] = {}
        loop.call_later(BEAT_S, self._beat)

    def party(self, host: Host) -> SimDiscovery:
        """Return a host's connection to the server."""
        party = self.parties[host] = self.make_party(self, host)
        return party

    # Faults.

    def cut_off(self, host: Host) -> None:
        self._cut_off[host] = None

    def mend(self, host: Host) -> None:
        self._cut_off.pop(host, None)

    def heal(self) -> None:
        self.is_down = False
        self._cut_off.clear()

    def lose_leases(self, host: Host) -> None:
        """End the leases of a host that is well."""
        for lease in list(self.leases.values()):
            if lease.owner.host is host:
                self._expire(lease)

    def is_reached_by(self, host: Host) -> bool:
        return not self.is_down and host not in self._cut_off and not host.is_dead

    # The store.

    def set(self, key: str, value: bytes, lease: SimLease | None) -> None:
        before = self.entries.get(key)
        if before is not None and before[1] is not None and before[1] is not lease:
            before[1].keys.pop(key, None)
        if lease is not None:
            lease.keys[key] = value
        self.entries[key] = value, lease
        if before is None or before[0] != value:
            self._publish(key, value)

    def drop(self, key: str) -> None:
        entry = self.entries.pop(key, None)
        if entry is None:
            for lease in self.leases.values():  # nor will it be put again with a lease that is lost now
                lease.keys.pop(key, None)
            return
        if entry[1] is not None:
            entry[1].keys.pop(key, None)
        self._publish(key, None)

    def end(self, lease: SimLease) -> None:
        self.leases.pop(lease.id, None)
        for key in sorted(lease.keys):
            if self.entries.get(key, (b"", None))[1] is lease:
                self.drop(key)
        lease.keys.clear()

    def _publish(self, key: str, value: bytes | None) -> None:
        self.loop.note(f"{'deleted' if value is None else 'set'} {key}", "discovery")
        for feed in self.feeds:
            feed.add(key, value)

    def _expire(self, lease: SimLease) -> None:
        """Lose a lease. Its owner knows what it had put."""
        lease.is_held = False
        self.loop.note(f"lease of {lease.owner.host} is lost", "discovery")
        for key in sorted(lease.keys):
            if self.entries.get(key, (b"", None))[1] is lease:
                del self.entries[key]
                self._publish(key, None)

    def _beat(self) -> None:
        """Renew the leases of those who are there, end those of others, and grant lost ones again."""
        self.loop.call_later(BEAT_S, self._beat)
        now = self.loop.time()
        for lease in list(self.leases.values()):
            host = lease.owner.host
            if self.is_down:
                lease.renewed_at = now  # a server that comes back gives each its whole time again
            elif lease.is_closed or not (self.is_reached_by(host) and host.is_running):
                if lease.is_held and now - lease.renewed_at > lease.ttl_s:
                    self._expire(lease)
                if lease.is_closed and not lease.is_held:
                    self.end(lease)
            elif lease.is_held:
                lease.renewed_at = now
                for key in lease.doomed:
                    self.drop(key)
                lease.doomed.clear()
            elif self.random.random() < BEAT_S / (lease.ttl_s / 6):  # it is noticed when it should be renewed
                self._grant_again(lease, now)

    def _grant_again(self, lease: SimLease, now: float) -> None:
        lease.is_held, lease.renewed_at = True, now
        self.loop.note(f"lease of {lease.owner.host} is granted again", "discovery")
        for key, value in list(lease.keys.items()):
            if key in lease.doomed:
                del lease.keys[key]
            elif key not in self.entries:
                self.set(key, value, lease)

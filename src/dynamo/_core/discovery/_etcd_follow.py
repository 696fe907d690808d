"""One watch on etcd that never leaves a gap to its reader.

It lists, then follows from the revision after the list. A stream that breaks is resumed at the revision after
the last one seen, at another member if need be; where etcd has compacted that away, or has lost its data, it
lists again and says what differs. etcd that lost its data and has written more since than we had seen cannot be
told from one that kept it, so a while after each outage it is listed once more, in any case.

After an outage etcd may delete what is alive: leases that nobody could renew have ended, or all data is gone,
and the owners put their keys again within the life of a lease. For that long a deletion is held back, and is
not said at all if the key comes again.
"""

from __future__ import annotations

import asyncio
import random as random_module
from contextlib import aclosing

import msgspec

from dynamo._core.discovery._etcd_answers import Header, KeyValue, refuses_us
from dynamo._core.discovery._etcd_gateway import Gateway
from dynamo._core.discovery._etcd_keys import KeySpace, list_keys, revision_of
from dynamo._core.discovery._watches import Watch
from dynamo._core.discovery.status import DiscoveryStatus
from dynamo._core.errors import CannotConnect, DynamoError

#: A watch that was broken for longer than this may have missed that leases ended.
OUTAGE_S = 2.0
#: How often everything is listed where nothing went wrong.
RELIST_S = 600.0
RETRY_S_MIN, RETRY_S_MAX = 0.05, 2.0


class _Event(msgspec.Struct):
    kv: KeyValue
    type: str = "PUT"


class _WatchReply(msgspec.Struct):
    header: Header
    canceled: bool = False
    compact_revision: int = 0
    cancel_reason: str = ""
    events: list[_Event] = []


class _MustList(Exception):
    """What we have seen cannot be continued."""


class Follower:
    """Keeps one watch true to etcd."""

    def __init__(
        self,
        gateway: Gateway,
        keys: KeySpace,
        prefix: str,
        status: DiscoveryStatus,
        random: random_module.Random,
        *,
        hold_s: float,
    ) -> None:
        self._gateway = gateway
        self._keys = keys
        self._prefix = prefix
        self._status = status
        self._random = random
        self._hold_s = hold_s
        self._watch: Watch | None = None
        # The mutable state: what the reader has been told and up to which revision, and how it goes on.
        self._told: dict[str, bytes] = {}
        self._revision = 0
        self._relist_at = 0.0
        self._retry_s = RETRY_S_MIN
        # When etcd was last heard before it was lost; None while a stream tells of changes.
        self._lost_at: float | None = None
        # Keys that etcd has deleted and the reader has not been told of, and until when that may be.
        self._held: set[str] = set()
        self._hold_until = 0.0
        self._release: asyncio.TimerHandle | None = None

    async def begin(self) -> Watch:
        """List what exists, and return the watch that says it. Raises what the gateway raises."""
        listing = await list_keys(self._gateway, self._keys, self._prefix)
        self._revision, self._told = listing.revision, listing.values
        self._watch = Watch(self._prefix, self._told)
        self._relist_at = self._after(RELIST_S)
        return self._watch

    async def run(self) -> None:
        """Follow until it is cancelled."""
        try:
            while True:
                try:
                    if self._lost_at is not None:
                        await self._catch_up(self._lost_at)
                    async with asyncio.timeout_at(self._relist_at):
                        await self._stream()
                except (_MustList, TimeoutError):
                    self._relist_at = 0.0
                    self._lost_at = self._lost_at or self._now()
                except DynamoError as error:
                    await self._pause(error)
        finally:
            self._status.forget(self)
            if self._release is not None:
                self._release.cancel()

    async def _pause(self, error: DynamoError) -> None:
        """Wait a little before the next attempt, longer each time."""
        # A stream that breaks is no trouble yet: another member may have the next one at once.
        if self._lost_at is not None or not isinstance(error, CannotConnect):
            self._status.note_trouble(self, error.message)
        if self._lost_at is None:
            self._lost_at = self._now() if self._gateway.answered_at is None else self._gateway.answered_at
        await asyncio.sleep(self._retry_s * self._random.uniform(0.5, 1.0))
        self._retry_s = min(self._retry_s * 2, RETRY_S_MAX)

    async def _catch_up(self, lost_at: float) -> None:
        """Prepare to go on after something that began at `lost_at`."""
        has_lost_data = await revision_of(self._gateway, self._keys, self._prefix) < self._revision
        if has_lost_data or self._now() - lost_at > OUTAGE_S:
            self._hold_until = self._now() + self._hold_s
        if has_lost_data or self._now() >= self._relist_at:
            await self._relist()
            self._relist_at = self._after(RELIST_S)
        else:
            # Not later than planned: a watch that breaks on what came meanwhile would never get beyond it.
            self._relist_at = min(self._relist_at, self._after(self._hold_s * 1.25))

    async def _relist(self) -> None:
        listing = await list_keys(self._gateway, self._keys, self._prefix)
        for key, value in listing.values.items():
            self._put(key, value)
        for key in self._told.keys() - listing.values.keys():
            self._delete(key)
        self._revision = listing.revision

    async def _stream(self) -> None:
        request = {"create_request": {**self._keys.range(self._prefix), "start_revision": str(self._revision + 1)}}
        async with aclosing(self._gateway.follow("watch", request, _WatchReply)) as replies:
            async for reply in replies:
                self._check(reply)
                self._lost_at, self._retry_s = None, RETRY_S_MIN
                self._status.note_well(self)
                for event in reply.events:
                    self._note(event)

    def _check(self, reply: _WatchReply) -> None:
        """Raise if etcd gives this watch up."""
        if reply.compact_revision:
            raise _MustList
        if reply.canceled:
            # It may be the token, which is as old as etcd's memory, or what an administrator has changed.
            self._gateway.forget_token()
            reason = f"the watch of {self._prefix!r} was ended: {reply.cancel_reason or 'no reason given'}"
            raise refuses_us(reason) if "denied" in reply.cancel_reason else CannotConnect(f"etcd: {reason}")

    def _note(self, event: _Event) -> None:
        key = self._keys.name(event.kv)
        if event.type == "DELETE":
            self._delete(key)
        else:
            self._put(key, event.kv.value)
        self._revision = max(self._revision, event.kv.mod_revision)

    # What the reader is told.

    def _put(self, key: str, value: bytes) -> None:
        self._held.discard(key)
        if self._told.get(key) != value:
            self._told[key] = value
            self._say(key, value)

    def _delete(self, key: str) -> None:
        if key not in self._told:
            return
        if self._now() < self._hold_until:
            self._held.add(key)
            self._plan_release(self._hold_until)
        else:
            self._held.discard(key)
            del self._told[key]
            self._say(key, None)

    def _release_held(self) -> None:
        self._release = None
        now = self._now()
        if self._lost_at is not None or now < self._hold_until:  # nobody can put anything while etcd is away
            self._plan_release(max(self._hold_until, now + OUTAGE_S))
            return
        for key in sorted(self._held):
            self._delete(key)

    def _plan_release(self, at: float) -> None:
        if self._release is None:
            self._release = asyncio.get_running_loop().call_at(at, self._release_held)

    def _after(self, in_s: float) -> float:
        """When to list again; not everybody does it at once."""
        return self._now() + in_s * self._random.uniform(0.9, 1.1)

    def _say(self, key: str, value: bytes | None) -> None:
        assert self._watch is not None
        self._watch.add(key, value)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

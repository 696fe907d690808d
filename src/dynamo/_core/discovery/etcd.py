"""Discovery among hosts, on etcd 3.4 or newer.

How etcd is reached, and why in this way, is told in `_etcd_gateway.py`; how a lease outlives etcd in
`_etcd_lease.py`; and how a watch goes on in `_etcd_follow.py`. What is put without a lease is as lasting as etcd's
data. A process that has never heard etcd learns within two seconds that it cannot; later ones wait a little longer,
because etcd's members may just be electing a leader.
"""

from __future__ import annotations

import asyncio
import logging
import random as random_module
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import TypeVar

from dynamo._core.discovery._etcd_answers import AnyReply, TxnReply
from dynamo._core.discovery._etcd_follow import Follower
from dynamo._core.discovery._etcd_gateway import Credentials, Gateway
from dynamo._core.discovery._etcd_keys import KeySpace, list_keys, revision_of
from dynamo._core.discovery._etcd_lease import EtcdLease, create, put
from dynamo._core.discovery._watches import Watch, check_key, check_ttl, check_value
from dynamo._core.discovery.base import LEASE_TTL_S, Change, Lease
from dynamo._core.discovery.status import DiscoveryStatus
from dynamo._core.errors import CannotConnect, DynamoError, NotFound, Overloaded
from dynamo._core.limits import ETCD_LEASES_MAX, ETCD_WATCHES_MAX

logger = logging.getLogger(__name__)

#: etcd grants no shorter one.
LEASE_TTL_S_MIN = 2.0
#: How often a process that only watches asks whether etcd is there, if it has not heard it for so long.
PROBE_S = LEASE_TTL_S / 3
#: How long an operation is tried again once etcd was heard, and how often.
PATIENCE_S = 4.0
RETRY_S = 0.25

T = TypeVar("T")


class EtcdDiscovery:
    """Finds the processes that use the same etcd. Belongs to one event loop.

    `members` are the URLs of etcd's members, and `root` is what all keys begin with. After an outage deletions are
    held back for `hold_s`, in which those who live can put their keys again. An error that is about `members` names
    `setting`.
    """

    def __init__(
        self,
        members: Sequence[str],
        *,
        credentials: Credentials | None = None,
        tls: ssl.SSLContext | None = None,
        root: str = "",
        hold_s: float = LEASE_TTL_S,
        random: random_module.Random | None = None,
        setting: str = "DYN_DISCOVERY",
    ) -> None:
        self._random = random or random_module.SystemRandom()
        self._gateway = Gateway(members, self._random, credentials=credentials, tls=tls, setting=setting)
        self._space = KeySpace(root)
        self._hold_s = hold_s
        #: Degraded while etcd cannot be reached, or refuses us.
        self.status = DiscoveryStatus()
        # The mutable state: what is kept alive, and who watches.
        self._leases: dict[int, EtcdLease] = {}
        self._watches: dict[Watch, asyncio.Task[None]] = {}
        self._probing: asyncio.Task[None] | None = None
        self._closed = False

    async def grant(self, ttl_s: float = LEASE_TTL_S) -> EtcdLease:
        """Return a lease that is renewed until it is closed or this process ends."""
        self._check_open()
        check_ttl(ttl_s)
        if len(self._leases) >= ETCD_LEASES_MAX:
            raise Overloaded(
                f"this process holds {ETCD_LEASES_MAX} leases and takes no more", leases_max=ETCD_LEASES_MAX
            )
        id = self._random.randrange(1, 1 << 63)
        ttl = round(max(ttl_s, LEASE_TTL_S_MIN))
        lease = EtcdLease(id, ttl, self._gateway, self._space, self.status, self._random, self._forget)
        await self._patiently(lease.grant)
        self._leases[id] = lease
        if self._closed:  # meanwhile, and nobody would end it
            await lease.close()
            self._check_open()
        return lease

    async def put(self, key: str, value: bytes, lease: Lease | None = None) -> None:
        """Set a key; it moves to the lease given last."""
        owner = self._check(key, value, lease)

        async def send() -> None:
            await self._gateway.call("kv/put", put(self._space, key, value, _id(owner)), AnyReply)
            self._note(key, value, owner)

        await self._change(owner, send)

    async def create(self, key: str, value: bytes, lease: Lease | None = None) -> bool:
        """Set a key that does not exist yet. False, and nothing changed, if it does."""
        owner = self._check(key, value, lease)
        times_left = self._gateway.times_left

        async def send() -> bool:
            reply = await self._gateway.call("kv/txn", create(self._space, key, value, _id(owner)), TxnReply)
            # A member that was left may have done it before it could say so.
            was_done = times_left != self._gateway.times_left and any(
                kv.value == value and kv.lease == _id(owner) for kv in reply.found
            )
            if reply.succeeded or was_done:
                self._note(key, value, owner)
            return reply.succeeded or was_done

        return await self._change(owner, send)

    async def get_prefix(self, prefix: str) -> dict[str, bytes]:
        """Return the keys that begin with `prefix`, in order."""
        self._check_open()
        listing = await self._patiently(lambda: list_keys(self._gateway, self._space, prefix))
        return dict(sorted(listing.values.items()))

    async def delete(self, key: str) -> None:
        """Delete a key; one that is not there is no error. One of ours may be deleted later."""
        self._check_open()
        owner = next((lease for lease in self._leases.values() if lease.holds(key)), None)
        if owner is None:
            await self._patiently(lambda: self._delete(key))
            return
        owner.delete_later(key)  # first, for whoever gives up waiting for it
        async with owner.turn:
            try:
                await self._delete(key)
                owner.note_gone(key)
            except CannotConnect as error:
                logger.debug("%r is deleted as soon as etcd is back: %s", key, error)

    async def watch(self, prefix: str) -> AsyncGenerator[Change, None]:
        """Yield what exists as `Put`, then `Synced`, then each change, for ever."""
        self._check_open()
        if len(self._watches) >= ETCD_WATCHES_MAX:
            raise Overloaded(
                f"this process has {ETCD_WATCHES_MAX} watches and takes no more", watches_max=ETCD_WATCHES_MAX
            )
        follower = Follower(self._gateway, self._space, prefix, self.status, self._random, hold_s=self._hold_s)
        watch = await self._patiently(follower.begin)
        self._check_open()
        following = asyncio.create_task(follower.run(), name=f"watch {prefix!r} on etcd")
        following.add_done_callback(lambda _: watch.close())
        self._watches[watch] = following
        if self._probing is None:
            self._probing = asyncio.create_task(self._probe(), name="probe etcd")
        try:
            while (change := await watch.next()) is not None:
                yield change
            if following.done() and not following.cancelled():
                following.result()
        finally:
            self._watches.pop(watch, None)
            await _end(following)

    async def close(self) -> None:
        """End the watches and the leases that were granted here. A second call changes nothing."""
        self._closed = True
        for watch, following in list(self._watches.items()):
            watch.close()
            await _end(following)
        if self._probing is not None:
            await _end(self._probing)
        try:
            await asyncio.gather(*(lease.close() for lease in list(self._leases.values())))
        finally:
            await self._gateway.close()

    # How it is done.

    async def _change(self, owner: EtcdLease | None, send: Callable[[], Awaitable[T]]) -> T:
        """Send a change of a key. A lease that etcd has ended meanwhile is granted again first."""
        if owner is None:
            return await self._patiently(send)

        def send_with_it() -> Awaitable[T]:
            self._check_lease(owner)  # which may be closed by now, and nobody would delete the key
            return send()

        async with owner.turn:
            try:
                return await self._patiently(send_with_it)
            except NotFound:
                self._check_lease(owner)
                await self._patiently(owner.restore)
                return await self._patiently(send_with_it)

    async def _patiently(self, send: Callable[[], Awaitable[T]]) -> T:
        """Send, and again for a while if etcd was there before: its members may have no leader for a moment."""
        loop = asyncio.get_running_loop()
        until = loop.time() + PATIENCE_S
        while True:
            try:
                return await send()
            except CannotConnect:
                if self._gateway.answered_at is None or loop.time() >= until:
                    raise
            await asyncio.sleep(RETRY_S * self._random.uniform(0.5, 1.0))
            self._check_open()

    async def _delete(self, key: str) -> None:
        await self._gateway.call("kv/deleterange", {"key": self._space.key(key)}, AnyReply)

    async def _probe(self) -> None:
        """Notice for those who watch that etcd does not answer: a stream that says nothing would not."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(PROBE_S * self._random.uniform(0.9, 1.0))
            is_heard = loop.time() - (self._gateway.answered_at or 0.0) < PROBE_S
            watch = next(iter(self._watches), None)
            try:
                if watch is not None and not is_heard:
                    await revision_of(self._gateway, self._space, watch.prefix)
                self.status.note_well(self)
            except DynamoError as error:
                self.status.note_trouble(self, error.message)

    # What is known.

    def _note(self, key: str, value: bytes, owner: EtcdLease | None) -> None:
        """Remember whose a key is, to put it again if etcd loses it."""
        for lease in self._leases.values():
            if lease is owner:
                lease.note_put(key, value)
            elif lease.holds(key):
                lease.note_gone(key)

    def _forget(self, lease: EtcdLease) -> None:
        self._leases.pop(lease.id, None)

    def _check(self, key: str, value: bytes, lease: Lease | None) -> EtcdLease | None:
        """Return the lease as one of ours, if it is."""
        self._check_open()
        check_key(key)
        check_value(key, value)
        return None if lease is None else self._check_lease(lease)

    def _check_lease(self, lease: Lease) -> EtcdLease:
        owner = self._leases.get(lease.id)
        if owner is None or owner.is_closed:
            raise NotFound(
                f"lease {lease.id:x} is closed, or was not granted by this discovery; grant a new one", lease=lease.id
            )
        return owner

    def _check_open(self) -> None:
        if self._closed:
            raise DynamoError("this discovery is closed; open a new one")


def _id(lease: EtcdLease | None) -> int:
    return 0 if lease is None else lease.id


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])

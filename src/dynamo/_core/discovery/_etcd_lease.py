"""A lease of etcd's, and who keeps it.

It is renewed three times in its life, by a task of its own. One that etcd has ended, while it could not be reached
or because it lost its data, is granted anew with the same id, and its keys are put again: the id of an instance
outlives etcd. After each failing over its keys are looked at, too, because an etcd that was restored may have the
lease and not the keys.
"""

from __future__ import annotations

import asyncio
import logging
import random as random_module
from collections.abc import Callable

import msgspec

from dynamo._core.discovery._etcd_answers import AnyReply, KeyValue, TxnReply
from dynamo._core.discovery._etcd_gateway import Gateway
from dynamo._core.discovery._etcd_keys import KeySpace, encoded
from dynamo._core.discovery.base import LEASE_TTL_S
from dynamo._core.discovery.status import DiscoveryStatus
from dynamo._core.errors import CannotConnect, DynamoError, NotFound

logger = logging.getLogger(__name__)

#: Long leases are renewed as often as those of usual length, so that it is noticed soon when one is lost.
RENEW_S_MAX = LEASE_TTL_S / 3
RETRY_S = 0.5


class _Granted(msgspec.Struct):
    ID: int = 0
    TTL: int = 0


class _Renewed(msgspec.Struct):
    result: _Granted


class EtcdLease:
    """A lease of an `EtcdDiscovery`."""

    def __init__(
        self,
        id: int,
        ttl_s: int,
        gateway: Gateway,
        space: KeySpace,
        status: DiscoveryStatus,
        random: random_module.Random,
        on_close: Callable[[EtcdLease], None],
    ) -> None:
        self.id = id
        self.ttl_s = ttl_s
        self._gateway = gateway
        self._space = space
        self._status = status
        self._random = random
        self._on_close = on_close
        self._keeping: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        # Whether a lease of this id that etcd has is ours: it was asked for before.
        self._may_exist = False
        #: Held by whoever changes keys of the lease, so that what is put back was not deleted meanwhile.
        self.turn = asyncio.Lock()
        # What should be in etcd under this lease, and what should no longer be.
        self._keys: dict[str, bytes] = {}
        self._unwanted: set[str] = set()
        # How often a member had been left when all was seen to be in place; None if it must be looked at.
        self._seen_at: int | None = None

    def __repr__(self) -> str:
        return f"EtcdLease({self.id:x}, ttl_s={self.ttl_s}, {len(self._keys)} keys)"

    async def grant(self) -> None:
        """Claim it, and renew it from now on."""
        await self._grant()
        self._seen_at = self._gateway.times_left
        self._keeping = asyncio.create_task(self._keep(), name=f"keep the lease {self.id:x}")

    @property
    def is_closed(self) -> bool:
        """Whether it ends, or has ended."""
        return self._closing is not None

    async def close(self) -> None:
        """End the lease and delete its keys. Later calls wait for the first, which goes on if it is cancelled."""
        if self._closing is None:
            self._keys.clear()  # so that nothing is put back
            self._unwanted.clear()
            self._closing = asyncio.create_task(self._close(), name=f"end the lease {self.id:x}")
        await asyncio.shield(self._closing)

    def holds(self, key: str) -> bool:
        """Whether a key was put with this lease, last, and may be there."""
        return key in self._keys or key in self._unwanted

    def note_put(self, key: str, value: bytes) -> None:
        """Put this key again whenever etcd loses it."""
        self._keys[key] = value
        self._unwanted.discard(key)

    def note_gone(self, key: str) -> None:
        """Forget a key, which was deleted, or put with another lease."""
        self._keys.pop(key, None)
        self._unwanted.discard(key)

    def delete_later(self, key: str) -> None:
        """Delete a key as soon as etcd can be reached again."""
        self._keys.pop(key, None)
        self._unwanted.add(key)

    async def restore(self) -> None:
        """Have etcd hold the lease again, with its keys; call it while it is your turn. Raises `CannotConnect`."""
        num_left = self._gateway.times_left
        reply = await self._gateway.call("lease/keepalive", {"ID": str(self.id)}, _Renewed)
        if reply.result.TTL <= 0:
            logger.warning("etcd has ended the lease %x; granting it again, with its %d keys", self.id, len(self._keys))
            self._seen_at = None
            await self._grant()
            self._status.leases_regranted += 1
        if self._seen_at != num_left:
            await self._put_back()
            self._seen_at = num_left
        while self._unwanted:
            key = next(iter(self._unwanted))
            await self._delete_ours(key)
            self._unwanted.discard(key)

    async def _close(self) -> None:
        try:
            if self._keeping is not None:
                self._keeping.cancel()
                await asyncio.wait([self._keeping])
            self._status.forget(self)
            await self._gateway.call("lease/revoke", {"ID": str(self.id)}, AnyReply)
        except NotFound:
            pass  # etcd has ended it
        except DynamoError as error:
            logger.warning("the lease %x ends by itself in %d s: %s", self.id, self.ttl_s, error)
        finally:
            self._on_close(self)

    async def _keep(self) -> None:
        """Renew it until it is closed."""
        loop = asyncio.get_running_loop()
        pause_s = self._renew_s
        while True:
            await asyncio.sleep(pause_s * self._random.uniform(0.9, 1.0))
            began = loop.time()
            try:
                async with self.turn:
                    await self.restore()
            except DynamoError as error:
                self._status.renew_failures += 1
                self._status.note_trouble(self, error.message)
                pause_s = RETRY_S
            else:
                self._status.note_renewal(loop.time() - began)
                self._status.note_well(self)
                pause_s = self._renew_s

    @property
    def _renew_s(self) -> float:
        return min(self.ttl_s / 3, RENEW_S_MAX)

    async def _grant(self) -> None:
        num_left = self._gateway.times_left
        try:
            await self._gateway.call("lease/grant", {"ID": str(self.id), "TTL": str(self.ttl_s)}, _Granted)
        except DynamoError as error:
            # A member that was left may have done it before it could say so.
            self._may_exist |= isinstance(error, CannotConnect) or num_left != self._gateway.times_left
            if "already exists" not in error.message or not self._may_exist:
                raise
        self._may_exist = True

    async def _put_back(self) -> None:
        """Have etcd hold what it should hold, key by key; what others hold by now stays theirs.

        Many keys take longer than the lease lives, so it is renewed meanwhile.
        """
        loop = asyncio.get_running_loop()
        renew_at = loop.time() + self._renew_s
        for key, value in list(self._keys.items()):
            if key not in self._keys:
                continue  # meanwhile it was deleted, or put with another lease
            if loop.time() >= renew_at:
                await self._gateway.call("lease/keepalive", {"ID": str(self.id)}, _Renewed)
                renew_at = loop.time() + self._renew_s
            found = await self._create(key, value)
            if found is None:
                continue
            if found.lease == self.id:
                if found.value != value:
                    await self._replace(key, value, found)
            elif self._keys.pop(key, None) is not None:
                logger.error("%r is another's now: it was put while etcd had ended the lease %x", key, self.id)

    async def _create(self, key: str, value: bytes) -> KeyValue | None:
        """Put a key that does not exist; return the one that does."""
        reply = await self._gateway.call("kv/txn", create(self._space, key, value, self.id), TxnReply)
        return reply.found[0] if reply.found else None

    async def _replace(self, key: str, value: bytes, found: KeyValue) -> None:
        is_the_same = {
            "key": self._space.key(key), "target": "MOD", "result": "EQUAL", "mod_revision": str(found.mod_revision),
        }  # fmt: skip
        body = {"compare": [is_the_same], "success": [{"request_put": put(self._space, key, value, self.id)}]}
        await self._gateway.call("kv/txn", body, TxnReply)

    async def _delete_ours(self, key: str) -> None:
        name = self._space.key(key)
        is_ours = {"key": name, "target": "LEASE", "result": "EQUAL", "lease": str(self.id)}
        body = {"compare": [is_ours], "success": [{"request_delete_range": {"key": name}}]}
        await self._gateway.call("kv/txn", body, TxnReply)


def put(space: KeySpace, key: str, value: bytes, lease_id: int) -> dict[str, object]:
    """Return what asks etcd to set a key; lease 0 is none."""
    return {"key": space.key(key), "value": encoded(value), "lease": str(lease_id)}


def create(space: KeySpace, key: str, value: bytes, lease_id: int) -> dict[str, object]:
    """Return the transaction that sets a key only if there is none, and else reads it."""
    name = space.key(key)
    return {
        "compare": [{"key": name, "target": "CREATE", "result": "EQUAL", "create_revision": "0"}],
        "success": [{"request_put": put(space, key, value, lease_id)}],
        "failure": [{"request_range": {"key": name}}],
    }

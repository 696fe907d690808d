"""Who serves an endpoint now, as discovery tells it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from dynamo._core.address import EndpointId, parse_key
from dynamo._core.discovery.base import Change, Put, Synced
from dynamo._core.errors import DynamoError, InvalidArgument, NoInstances
from dynamo._core.stability import stable
from dynamo.runtime import _codec

if TYPE_CHECKING:
    from dynamo._core.discovery.base import Discovery

logger = logging.getLogger(__name__)

#: How long a client that starts waits to learn who is alive.
SYNC_TIMEOUT_S = 10.0


@stable(since="0.1", constructor=False)
@dataclass(frozen=True, slots=True)
class Instance:
    """One live server of an endpoint."""

    instance_id: int
    address: str


@stable(since="0.1")
class InstanceRecord(msgspec.Struct):
    """An instance as discovery holds it."""

    namespace: str
    component: str
    endpoint: str
    instance_id: int
    transport: dict[str, str]
    type: str = "Endpoint"


class Instances:
    """The instances of one endpoint that are alive. `on_change` hears of each that has come, changed or left."""

    def __init__(self, endpoint: EndpointId, discovery: Discovery, on_change: Callable[[int], None]) -> None:
        self.endpoint = endpoint
        self._discovery = discovery
        self._on_change = on_change
        # The mutable state. Who is alive is changed by _follow() and nowhere else.
        self.by_id: dict[int, Instance] = {}
        self.ids: list[int] = []
        self._changed = asyncio.Event()
        self._synced = asyncio.Event()
        self._follower: asyncio.Task[None] | None = None
        self._over = False
        self._failure: Exception | None = None

    async def start(self) -> None:
        """Begin to follow; return when those that exist are known."""
        if self._follower is None:
            self._follower = asyncio.get_running_loop().create_task(self._follow())
        synced = asyncio.ensure_future(self._synced.wait())
        try:
            await asyncio.wait([synced, self._follower], timeout=SYNC_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            synced.cancel()
        if self._failure is not None:
            raise self._failure
        self._check_follows()
        if not self._synced.is_set():
            raise DynamoError(f"discovery did not say within {SYNC_TIMEOUT_S:.0f} s who serves {self.endpoint}")

    async def close(self) -> None:
        """Stop following."""
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.wait([self._follower])

    async def wait_for(self, count: int, timeout_s: float | None) -> None:
        """Return as soon as there are `count`. Raises `NoInstances` after `timeout_s` seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                while len(self.ids) < count:
                    await self.wait_for_change()
        except TimeoutError:
            raise NoInstances(
                f"{len(self.ids)} of {count} instances serve {self.endpoint} after {timeout_s} s; is a worker up?",
                endpoint=str(self.endpoint),
            ) from None

    async def wait_for_change(self) -> None:
        """Wait until the next change. Raises `DynamoError` if none can come any more."""
        self._check_follows()
        self._changed.clear()
        await self._changed.wait()

    def _check_follows(self) -> None:
        if self._over:
            raise DynamoError(
                f"nobody follows any more who serves {self.endpoint}: the client is closed, or discovery has ended"
            ) from self._failure

    async def _follow(self) -> None:
        try:
            async with contextlib.aclosing(self._discovery.watch(self.endpoint.instances_prefix)) as changes:
                async for change in changes:
                    self._note(change)
        except Exception as error:
            self._failure = error
            if self._synced.is_set():  # else it is raised by start()
                logger.exception("nobody follows any more who serves %s: discovery failed", self.endpoint)
        finally:
            self._over = True
            self._changed.set()

    def _note(self, change: Change) -> None:
        if isinstance(change, Synced):
            self._synced.set()
        elif (id := _instance_id(change.key)) is not None:
            self.by_id.pop(id, None)
            if isinstance(change, Put) and (instance := _read(id, change)) is not None:
                self.by_id[id] = instance
            self._on_change(id)
        self.ids = sorted(self.by_id)
        self._changed.set()


def _instance_id(key: str) -> int | None:
    try:
        return parse_key(key)[1]
    except InvalidArgument as error:
        logger.warning("ignoring %.300s: it is not the key of an instance (%s)", key, error)
        return None


def _read(id: int, put: Put) -> Instance | None:
    """Return what `put` says of the instance `id`; None, with a warning, if it makes no sense."""
    try:
        record = msgspec.json.decode(put.value, type=InstanceRecord)
        if record.instance_id != id:
            raise ValueError(f"its instance_id is {record.instance_id:x}")
        return Instance(id, next(iter(record.transport.values())))
    except (*_codec.UNREADABLE, StopIteration) as error:
        logger.warning("ignoring %s: it is not the record of an instance (%s)", put.key, error)
        return None

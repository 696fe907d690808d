"""The calling side of an endpoint: follow its instances, pick one, send, and read the stream."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar, overload

import msgspec

from dynamo._core import request_plane
from dynamo._core.address import EndpointId, parse_key
from dynamo._core.context import Context
from dynamo._core.discovery.base import Change, Put, Synced
from dynamo._core.errors import CannotConnect, DynamoError, InvalidArgument, NoInstances, NotFound
from dynamo.runtime import _codec
from dynamo.runtime._codec import Annotated, JsonValue
from dynamo.runtime._response import ResponseStream

if TYPE_CHECKING:
    from dynamo._core.discovery.base import Discovery

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: How long a client that starts waits to learn who is alive.
SYNC_TIMEOUT_S = 10.0
#: An instance that could not be reached, or was lost, is passed over for so long, unless no other is left.
AVOID_S = 5.0
#: So many instances are tried before a request that nobody has seen fails.
CONNECT_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Instance:
    """One live server of an endpoint."""

    instance_id: int
    address: str


class InstanceRecord(msgspec.Struct):
    """An instance as discovery holds it."""

    namespace: str
    component: str
    endpoint: str
    instance_id: int
    transport: dict[str, str]
    type: str = "Endpoint"


class Client:
    """Calls one endpoint, on whichever instances are alive now."""

    def __init__(
        self,
        endpoint: EndpointId,
        discovery: Discovery,
        requests: request_plane.RequestPlane,
        rng: random.Random,
        on_close: Callable[[Client], None],
    ) -> None:
        self.endpoint = endpoint
        self._on_close = on_close
        self._discovery = discovery
        self._requests = requests
        self._rng = rng
        # The mutable state. Who is alive is changed by _follow() and nowhere else.
        self._instances: dict[int, Instance] = {}
        self._ids: list[int] = []
        self._avoided: dict[int, float] = {}
        self._last_id = -1
        self._changed = asyncio.Event()
        self._synced = asyncio.Event()
        self._follower: asyncio.Task[None] | None = None
        self._over = False
        self._failure: Exception | None = None

    async def start(self) -> None:
        """Begin to follow the instances; return when those that exist are known."""
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
        """Stop following. Streams that are open go on."""
        self._on_close(self)
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.wait([self._follower])

    def instance_ids(self) -> list[int]:
        """The ids of the instances that are alive, in ascending order."""
        return list(self._ids)

    def instances(self) -> list[Instance]:
        """The instances that are alive, in order of their ids."""
        return [self._instances[id] for id in self._ids]

    async def wait_for_instances(self, count: int = 1, timeout_s: float | None = None) -> list[int]:
        """Return the ids as soon as there are `count`. Raises `NoInstances` after `timeout_s` seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                while len(self._ids) < count:
                    await self.wait_for_change()
        except TimeoutError:
            raise NoInstances(
                f"{len(self._ids)} of {count} instances serve {self.endpoint} after {timeout_s} s; is a worker up?",
                endpoint=str(self.endpoint),
            ) from None
        return list(self._ids)

    # Their older names.
    endpoint_ids = instance_ids
    wait_for_endpoints = wait_for_instances

    async def wait_for_change(self) -> None:
        """Wait until the next change of who is alive. Raises `DynamoError` if none can come any more."""
        self._check_follows()
        self._changed.clear()
        await self._changed.wait()

    # Calls. Each picks an instance in its own way; a request that no instance has seen goes to another.

    @overload
    async def generate(
        self, request: object, annotated: Literal[True] = True, context: Context | None = None
    ) -> ResponseStream[Annotated]: ...
    @overload
    async def generate(
        self, request: object, annotated: Literal[False], context: Context | None = None
    ) -> ResponseStream[JsonValue]: ...
    @overload
    async def generate(
        self, request: object, annotated: bool = True, context: Context | None = None, *, item_type: type[T]
    ) -> ResponseStream[T]: ...
    async def generate(
        self,
        request: object,
        annotated: bool = True,
        context: Context | None = None,
        *,
        item_type: type[T] | None = None,
    ) -> ResponseStream[Annotated] | ResponseStream[JsonValue] | ResponseStream[T]:
        """Call an instance chosen at random.

        Items are `Annotated`; with `annotated=False` they are plain values, and with `item_type` they
        are decoded into that msgspec type. Raises `NoInstances` if nobody serves the endpoint and
        `CannotConnect` if nobody could be reached.
        """
        return await self._call(self._random, request, annotated, context, item_type)

    random = generate
    #: The older name for a service that is not discovered. Every service is, so it is the same.
    static = generate

    @overload
    async def round_robin(
        self, request: object, annotated: Literal[True] = True, context: Context | None = None
    ) -> ResponseStream[Annotated]: ...
    @overload
    async def round_robin(
        self, request: object, annotated: Literal[False], context: Context | None = None
    ) -> ResponseStream[JsonValue]: ...
    @overload
    async def round_robin(
        self, request: object, annotated: bool = True, context: Context | None = None, *, item_type: type[T]
    ) -> ResponseStream[T]: ...
    async def round_robin(
        self,
        request: object,
        annotated: bool = True,
        context: Context | None = None,
        *,
        item_type: type[T] | None = None,
    ) -> ResponseStream[Annotated] | ResponseStream[JsonValue] | ResponseStream[T]:
        """Call the instances in turn. Otherwise like `generate`."""
        return await self._call(self._next_in_turn, request, annotated, context, item_type)

    @overload
    async def direct(
        self, request: object, instance_id: int, annotated: Literal[True] = True, context: Context | None = None
    ) -> ResponseStream[Annotated]: ...
    @overload
    async def direct(
        self, request: object, instance_id: int, annotated: Literal[False], context: Context | None = None
    ) -> ResponseStream[JsonValue]: ...
    @overload
    async def direct(
        self,
        request: object,
        instance_id: int,
        annotated: bool = True,
        context: Context | None = None,
        *,
        item_type: type[T],
    ) -> ResponseStream[T]: ...
    async def direct(
        self,
        request: object,
        instance_id: int,
        annotated: bool = True,
        context: Context | None = None,
        *,
        item_type: type[T] | None = None,
    ) -> ResponseStream[Annotated] | ResponseStream[JsonValue] | ResponseStream[T]:
        """Call one instance, and no other. Raises `NotFound` if it is not alive."""
        instance = self._instances.get(instance_id)
        if instance is None:
            raise NotFound(
                f"instance_id={instance_id} not found for endpoint {str(self.endpoint)!r}", instance_id=str(instance_id)
            )
        return await self._send(instance, _codec.encode(request), annotated, context, item_type)

    async def _call(
        self,
        pick: Callable[[list[int]], int],
        request: object,
        annotated: bool,
        context: Context | None,
        item_type: type[T] | None,
    ) -> ResponseStream[Annotated] | ResponseStream[JsonValue] | ResponseStream[T]:
        payload = _codec.encode(request)
        for attempt in itertools.count(1):
            instance = self._instances[pick(self._candidates())]
            try:
                return await self._send(instance, payload, annotated, context, item_type)
            except CannotConnect:
                if attempt >= CONNECT_ATTEMPTS or attempt >= len(self._ids):
                    raise
        raise AssertionError("unreachable")

    async def _send(
        self,
        instance: Instance,
        payload: bytes,
        annotated: bool,
        context: Context | None,
        item_type: type[T] | None,
    ) -> ResponseStream[Annotated] | ResponseStream[JsonValue] | ResponseStream[T]:
        try:
            items = await self._requests.call(instance.address, payload, context or Context())
        except CannotConnect:
            self._avoid(instance.instance_id)
            raise
        if item_type is not None:
            return ResponseStream(items, _codec.typed_decoder(item_type), instance.instance_id, self._avoid)
        if annotated:
            return ResponseStream(items, _codec.decode_annotated, instance.instance_id, self._avoid)
        return ResponseStream(items, _codec.decode_plain, instance.instance_id, self._avoid)

    def _avoid(self, instance_id: int) -> None:
        """Pass over an instance for a while: it could not be reached, or was lost while it answered."""
        self._avoided[instance_id] = asyncio.get_running_loop().time() + AVOID_S

    def _candidates(self) -> list[int]:
        """The instances to choose from: those that could be reached lately, or all if there are none."""
        if not self._ids:
            raise NoInstances(
                f"no instances found for endpoint {str(self.endpoint)!r}; is a worker running?",
                endpoint=str(self.endpoint),
            )
        if not self._avoided:
            return self._ids
        now = asyncio.get_running_loop().time()
        self._avoided = {id: until for id, until in self._avoided.items() if until > now and id in self._instances}
        return [id for id in self._ids if id not in self._avoided] or self._ids

    def _random(self, ids: list[int]) -> int:
        return self._rng.choice(ids)

    def _next_in_turn(self, ids: list[int]) -> int:
        self._last_id = next_in_turn(ids, self._last_id)
        return self._last_id

    # Who is alive.

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
            self._instances.pop(id, None)
            self._avoided.pop(id, None)
            if isinstance(change, Put) and (instance := _read(id, change)) is not None:
                self._instances[id] = instance
        self._ids = sorted(self._instances)
        self._changed.set()


def next_in_turn(ids: list[int], last_id: int) -> int:
    """The next of `ids`, in ascending order, above the last one: fair however instances come and go."""
    position = bisect_right(ids, last_id)
    return ids[position if position < len(ids) else 0]


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
            raise ValueError(f"its instance_id is {record.instance_id}")
        return Instance(id, next(iter(record.transport.values())))
    except (*_codec.UNREADABLE, StopIteration) as error:
        logger.warning("ignoring %s: it is not the record of an instance (%s)", put.key, error)
        return None

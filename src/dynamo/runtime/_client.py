"""The calling side of an endpoint: know its instances, pick one, send, and read the stream."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Container
from typing import TYPE_CHECKING, Literal, TypeVar, overload

from typing_extensions import deprecated

from dynamo._core import request_plane
from dynamo._core.address import EndpointId
from dynamo._core.context import Context
from dynamo._core.errors import CannotConnect, InvalidArgument, NotFound, Overloaded
from dynamo._core.stability import stable
from dynamo.runtime import _codec
from dynamo.runtime._arguments import check_callable, check_count, check_seconds, context_or_new, wrong_type
from dynamo.runtime._call import AddressedCall, Call, Caller, Choose
from dynamo.runtime._codec import Annotated, JsonValue
from dynamo.runtime._instances import Instance, Instances
from dynamo.runtime._measured import Called
from dynamo.runtime._response import ResponseStream
from dynamo.runtime._timeouts import StreamTimeouts

if TYPE_CHECKING:
    from dynamo._core.discovery.base import Discovery

T = TypeVar("T")


@stable(since="0.1", constructor=False)
class Client:
    """Calls one endpoint, on whichever instances are alive now. `DistributedRuntime.client` returns one.

    A request that no instance has begun goes to another one by itself, within limits; one that has begun never
    does. Instances that could not be reached, were lost or are stuck are passed over for a while.
    """

    def __init__(
        self,
        endpoint: EndpointId,
        discovery: Discovery,
        requests: request_plane.RequestPlane,
        rng: random.Random,
        on_close: Callable[[Client], None],
        *,
        timeouts: StreamTimeouts,
        called: Called,
    ) -> None:
        self.endpoint = endpoint
        #: How long it waits for the items of a stream.
        self.timeouts = timeouts
        self._on_close = on_close
        self._rng = rng
        self._called = called
        self._instances = Instances(endpoint, discovery, self._note_change)
        self._caller = Caller(endpoint, requests, self._instances, timeouts, called)
        self._last_id = -1

    async def start(self) -> None:
        """Begin to follow the instances; return when those that exist are known.

        Whoever returns a client has done it. Raises `DynamoError` if discovery does not say within 10 seconds.
        """
        if self._caller not in self._called.callers:
            self._called.callers.append(self._caller)
        await self._instances.start()

    async def close(self) -> None:
        """Stop following. Streams that are open go on."""
        self._on_close(self)
        if self._caller in self._called.callers:
            self._called.callers.remove(self._caller)
        await self._instances.close()

    def instance_ids(self) -> list[int]:
        """The ids of the instances that are alive, in ascending order."""
        return list(self._instances.ids)

    def instances(self) -> list[Instance]:
        """The instances that are alive, in order of their ids."""
        return [self._instances.by_id[id] for id in self._instances.ids]

    def is_passed_over(self, instance_id: int) -> bool:
        """Whether an instance was at fault lately, and has not answered since."""
        return instance_id in self._caller.quarantine

    async def wait_for_instances(self, count: int = 1, timeout_s: float | None = None) -> list[int]:
        """Return the ids as soon as there are `count`.

        Raises `NoInstances` after `timeout_s` seconds; None waits for ever.
        """
        check_count("count", count, 0)
        check_seconds("timeout_s", timeout_s, or_none="no limit")
        await self._instances.wait_for(count, timeout_s)
        return list(self._instances.ids)

    @deprecated("endpoint_ids is instance_ids now, and goes with version 1.0")
    def endpoint_ids(self) -> list[int]:
        """The older name of `instance_ids`."""
        return self.instance_ids()

    @deprecated("wait_for_endpoints is wait_for_instances now, and goes with version 1.0")
    async def wait_for_endpoints(self) -> list[int]:
        """The older name of `wait_for_instances`, without a limit."""
        return await self.wait_for_instances()

    async def wait_for_change(self) -> None:
        """Wait until the next change of who is alive. Raises `DynamoError` if none can come any more."""
        await self._instances.wait_for_change()

    # Calls. Each picks an instance in its own way.

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

        `request` is what JSON can say, a msgspec struct or a pydantic model; `context` carries the id, the deadline,
        the metadata and the cancellation, and is a new one if there is none. Items are `Annotated`; with
        `annotated=False` they are plain values, and with `item_type` they are decoded into that msgspec type. Raises
        `NoInstances` if nobody serves the endpoint and `CannotConnect` if nobody could be reached. A refusal,
        `Overloaded` or `WorkerUnavailable`, is raised by the stream, in place of its first item, if other instances
        refuse, too.
        """
        return await self._call(self._random, request, annotated, context, item_type)

    random = generate

    @overload
    async def static(
        self, request: object, annotated: Literal[True] = True, context: Context | None = None
    ) -> ResponseStream[Annotated]: ...
    @overload
    async def static(
        self, request: object, annotated: Literal[False], context: Context | None = None
    ) -> ResponseStream[JsonValue]: ...
    @deprecated("there are no services that are not discovered: use generate; static goes with version 1.0")
    async def static(
        self, request: object, annotated: bool = True, context: Context | None = None
    ) -> ResponseStream[Annotated] | ResponseStream[JsonValue]:
        """The older name for a service that is not discovered. Every service is, so it is `generate`."""
        return await self._call(self._random, request, annotated, context, None)

    @overload
    async def round_robin(
        self,
        request: object,
        annotated: Literal[True] = True,
        context: Context | None = None,
        *,
        avoid: Container[int] = (),
    ) -> ResponseStream[Annotated]: ...
    @overload
    async def round_robin(
        self,
        request: object,
        annotated: Literal[False],
        context: Context | None = None,
        *,
        avoid: Container[int] = (),
    ) -> ResponseStream[JsonValue]: ...
    @overload
    async def round_robin(
        self,
        request: object,
        annotated: bool = True,
        context: Context | None = None,
        *,
        item_type: type[T],
        avoid: Container[int] = (),
    ) -> ResponseStream[T]: ...
    async def round_robin(
        self,
        request: object,
        annotated: bool = True,
        context: Context | None = None,
        *,
        item_type: type[T] | None = None,
        avoid: Container[int] = (),
    ) -> ResponseStream[Annotated] | ResponseStream[JsonValue] | ResponseStream[T]:
        """Call the instances in turn, but none of those to avoid. Otherwise like `generate`."""
        return await self._call(self._next_in_turn, request, annotated, context, item_type, avoid)

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
        """Call one instance, and no other, whatever is known of it. Otherwise like `generate`.

        Raises `NotFound` if it is not alive.
        """
        if type(instance_id) is not int:
            raise wrong_type("instance_id", instance_id, "the id of an instance, as `instance_ids` returns them")
        instance = self._instances.by_id.get(instance_id)
        if instance is None:
            raise NotFound(
                f"instance {instance_id:x} not found for endpoint {str(self.endpoint)!r}", instance_id=str(instance_id)
            )
        self._called.requests += 1
        call = Call(self._caller, _codec.encode(request), context_or_new(context), None)
        await call.send_to(instance)
        return _read(call, annotated, item_type)

    async def chosen(
        self,
        request_for: Callable[[int], object],
        choose: Choose,
        context: Context | None = None,
        *,
        item_type: type[T],
        avoid: Container[int] = (),
    ) -> ResponseStream[T]:
        """Call the instance that `choose` returns, of the ids that it is given, with the request for that instance.

        While nobody has begun the request, `choose` is asked again, for each instance that it is sent to. What it
        raises the first time is raised here; later `NoInstances` and `Overloaded` mean that it goes to no other.
        Otherwise like `round_robin`, and items are decoded into `item_type`.
        """
        check_callable("request_for", request_for, "a function of an instance's id that returns the request for it")
        check_callable("choose", choose, "a function of a list of ids that returns one of them")
        caller, choose = self._caller, _one_of_them(choose)
        call = AddressedCall(caller, lambda id: _codec.encode(request_for(id)), context_or_new(context), choose, avoid)
        self._called.requests += 1
        caller.budget.requests += 1
        instance = self._instances.by_id[choose(caller.candidates(avoid))]
        try:
            await call.send_to(instance)
        except (CannotConnect, Overloaded) as error:
            await call.send_elsewhere(error)
        return ResponseStream(call, _codec.typed_decoder(item_type))

    async def _call(
        self,
        choose: Choose,
        request: object,
        annotated: bool,
        context: Context | None,
        item_type: type[T] | None,
        avoid: Container[int] = (),
    ) -> ResponseStream[Annotated] | ResponseStream[JsonValue] | ResponseStream[T]:
        caller = self._caller
        call = Call(caller, _codec.encode(request), context_or_new(context), choose, avoid)
        self._called.requests += 1
        caller.budget.requests += 1
        try:
            await call.send_to(self._instances.by_id[choose(caller.candidates(avoid))])
        except (CannotConnect, Overloaded) as error:
            await call.send_elsewhere(error)
        return _read(call, annotated, item_type)

    def _random(self, ids: list[int]) -> int:
        return self._rng.choice(ids)

    def _next_in_turn(self, ids: list[int]) -> int:
        self._last_id = next_in_turn(ids, self._last_id)
        return self._last_id

    def _note_change(self, instance_id: int) -> None:
        """What was known of an instance that has left, or has come anew, is of no use any more."""
        self._caller.quarantine.forget(instance_id)


def next_in_turn(ids: list[int], last_id: int) -> int:
    """The next of `ids`, in ascending order, above the last one: fair however instances come and go."""
    position = bisect_right(ids, last_id)
    return ids[position if position < len(ids) else 0]


def _one_of_them(choose: Choose) -> Choose:
    def checked(ids: list[int]) -> int:
        # A list of its own: the other one is that of who is alive.
        id = choose(list(ids))
        if id not in ids:
            raise InvalidArgument(f"{id!r} was chosen, and is none of the {len(ids)} instances to choose from")
        return id

    return checked


def _read(
    call: Call, annotated: bool, item_type: type[T] | None
) -> ResponseStream[Annotated] | ResponseStream[JsonValue] | ResponseStream[T]:
    if item_type is not None:
        return ResponseStream(call, _codec.typed_decoder(item_type))
    if annotated:
        return ResponseStream(call, _codec.decode_annotated)
    return ResponseStream(call, _codec.decode_plain)

"""Names that can be called: Namespace -> Component -> Endpoint."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import msgspec

from dynamo._core.address import EndpointId, event_subject
from dynamo._core.context import CancellationToken
from dynamo._core.errors import InvalidArgument, NotFound
from dynamo._core.stability import stable
from dynamo.runtime import _codec
from dynamo.runtime._admission import admission
from dynamo.runtime._arguments import check_part, check_seconds, check_type, wrong_type
from dynamo.runtime._canary import Canary, canary_settings
from dynamo.runtime._client import Client
from dynamo.runtime._events import EventScope
from dynamo.runtime._instances import InstanceRecord
from dynamo.runtime._lease import CustomLease
from dynamo.runtime._measured import Measured
from dynamo.runtime._served_endpoint import DRAIN_S, ServedEndpoint
from dynamo.runtime._serving import EndpointHandler, serve_bytes
from dynamo.runtime._timeouts import StreamTimeouts, timeouts_from_env

if TYPE_CHECKING:
    from dynamo._core.discovery.base import Lease
    from dynamo.metrics._metrics import Metrics
    from dynamo.runtime._runtime import DistributedRuntime

T = TypeVar("T")


class Namespace(EventScope):
    """A group of components that belong together. `DistributedRuntime.namespace` returns one."""

    def __init__(self, runtime: DistributedRuntime, name: str) -> None:
        check_part("namespace", name)
        self.runtime = runtime
        self.name = name

    def event_subject(self, topic: str) -> str:
        """The subject of the events on `topic` of the whole namespace."""
        check_part("topic", topic)
        return event_subject(topic, self.name)

    @property
    def metrics(self) -> Metrics:
        """Makes counters, gauges and histograms that have the label of this namespace; see `dynamo.metrics`."""
        return self.runtime.exposition.metrics(self.name)

    def component(self, name: str) -> Component:
        """The component `name`. Raises `InvalidArgument` for a name that is none."""
        return Component(self.runtime, self.name, name)


class Component(EventScope):
    """One kind of worker. `Namespace.component` returns one."""

    def __init__(self, runtime: DistributedRuntime, namespace: str, name: str) -> None:
        check_part("namespace", namespace)
        check_part("component", name)
        self.runtime = runtime
        self.namespace = namespace
        self.name = name

    def event_subject(self, topic: str) -> str:
        """The subject of the events on `topic` of this component."""
        check_part("topic", topic)
        return event_subject(topic, self.namespace, self.name)

    @property
    def metrics(self) -> Metrics:
        """Makes counters, gauges and histograms that have the labels of this component; see `dynamo.metrics`."""
        return self.runtime.exposition.metrics(self.namespace, self.name)

    def endpoint(self, name: str) -> Endpoint:
        """The endpoint `name`. Raises `InvalidArgument` for a name that is none."""
        check_part("endpoint", name)
        return Endpoint(self.runtime, EndpointId(self.namespace, self.name, name))

    async def create_service(self) -> None:
        """Kept for older code: a component needs no preparation."""
        await self.runtime.joined()

    async def create_service_with_custom_lease(self, ttl: float = 1.0) -> CustomLease:
        """Return a lease of its own, to serve endpoints under; revoking it takes them away.

        `ttl` is how many seconds discovery keeps it when this process is gone without a word. Raises
        `InvalidArgument` if that is not more than 0.
        """
        check_seconds("ttl", ttl, above_zero=True)
        return await self.runtime.grant_custom_lease(ttl)


@stable(since="0.1", constructor=False)
class Endpoint(EventScope):
    """A name that can be called: serve it, or make a client of it.

    `DistributedRuntime.endpoint` and `Component.endpoint` return one. Where a program needs no more than to serve or
    to call, `DistributedRuntime.serve` and `DistributedRuntime.client` do both steps in one.
    """

    def __init__(self, runtime: DistributedRuntime, id: EndpointId, lease: CustomLease | None = None) -> None:
        self.runtime = runtime
        self.id = id
        self._lease = lease

    def event_subject(self, topic: str) -> str:
        """The subject of the events on `topic` of this endpoint."""
        check_part("topic", topic)
        return self.id.event_subject(topic)

    @property
    def metrics(self) -> Metrics:
        """Makes counters, gauges and histograms that have the labels of this endpoint; see `dynamo.metrics`."""
        return self.runtime.exposition.metrics(self.id.namespace, self.id.component, self.id.endpoint)

    @property
    def lease(self) -> Lease:
        """The lease under which it is served here: the process's, unless it was made with one of its own."""
        return self.runtime.lease if self._lease is None else self._lease.lease

    def sibling(self, name: str) -> Endpoint:
        """Another endpoint of the same component, under the same lease."""
        check_part("endpoint", name)
        return Endpoint(self.runtime, EndpointId(self.id.namespace, self.id.component, name), self._lease)

    def lease_id(self) -> int:
        """The id of that lease, and so of the instance that it registers."""
        return self.lease.id

    #: Its name in 1.x.
    connection_id = lease_id

    async def unregister_endpoint_instance(self) -> None:
        """Put what this process serves here to sleep: nobody finds it any more. See `ServedEndpoint.unregister`.

        Raises `NotFound` if this process does not serve the endpoint.
        """
        await self._served_here().unregister()

    async def register_endpoint_instance(self) -> None:
        """Wake what `unregister_endpoint_instance` has put to sleep. See `ServedEndpoint.register`.

        Raises `NotFound` if this process does not serve the endpoint.
        """
        await self._served_here().register()

    def _served_here(self) -> ServedEndpoint:
        key = self.id.instance_key(self.lease_id())
        for served in self.runtime.served():
            if served.key == key:
                return served
        raise NotFound(f"this process does not serve {self.id}", endpoint=str(self.id))

    async def serve_endpoint(
        self,
        handler: EndpointHandler,
        graceful_shutdown: bool | CustomLease | None = True,
        lease: CustomLease | None = None,
        *,
        health_check_payload: object = None,
        max_concurrent_requests: int | None = None,
        max_queued_requests: int | None = None,
        queue_timeout_s: float | None = None,
    ) -> None:
        """Serve until the runtime shuts down, or the lease that was given is revoked.

        `handler` takes `(request)` or `(request, context)` and is an async generator, an async function
        or, run in a thread, their sync kin. With `graceful_shutdown` the requests that run may finish
        for 30 seconds; without it they end with `EngineShutdown` at once. A lease, or None, in its place is
        what older code gives: the lease. Everything else is as in `serve`, and so are the errors.
        """
        if not isinstance(graceful_shutdown, bool):
            check_type("graceful_shutdown", graceful_shutdown, (CustomLease, type(None)), "True or False")
            lease = lease or graceful_shutdown
            graceful_shutdown = True
        lease = lease or self._lease
        served = await self.serve(
            handler,
            drain_s=DRAIN_S if graceful_shutdown else 0.0,
            lease=lease,
            health_check_payload=health_check_payload,
            max_concurrent_requests=max_concurrent_requests,
            max_queued_requests=max_queued_requests,
            queue_timeout_s=queue_timeout_s,
        )
        try:
            await _first_of(self.runtime.primary_token(), *(() if lease is None else (lease.revoked,)))
        finally:
            await served.close()

    async def serve(
        self,
        handler: EndpointHandler,
        *,
        drain_s: float = DRAIN_S,
        request_type: type[T] | None = None,
        lease: CustomLease | None = None,
        health_check_payload: object = None,
        max_concurrent_requests: int | None = None,
        max_queued_requests: int | None = None,
        queue_timeout_s: float | None = None,
    ) -> ServedEndpoint:
        """Listen, then register; return when the endpoint can be called.

        `handler` takes `(request)` or `(request, context)` and is an async generator, an async function, whose
        result is one item, or their sync kin, which run in a thread. Requests and items are what JSON can say,
        msgspec structs or pydantic models. When it is closed, the requests that run have `drain_s` seconds (30).

        `request_type`, a msgspec type, is what requests are decoded into; without it they are plain values.
        With `lease` the instance lives, and is known, by that instead of the process's own. A process serves
        an endpoint once under each: raises `InvalidArgument` if this one does so already.

        With `max_concurrent_requests` no more than those run at a time; `max_queued_requests` more (16) wait for
        `queue_timeout_s` (10), and the others are refused as `Overloaded`. With `health_check_payload`, a request,
        the endpoint has a canary: when no item came out of it for a while (`DYN_CANARY_WAIT_TIME`), it is asked
        that, and is not ready if it does not answer (`DYN_HEALTH_CHECK_REQUEST_TIMEOUT`).

        An argument of a wrong type is a TypeError, a limit or a time that makes no sense `InvalidArgument`. Raises
        another `DynamoError` if no address is free to listen at, or discovery cannot be reached.
        """
        check_seconds("drain_s", drain_s)
        if lease is not None:
            check_type("lease", lease, CustomLease, "what `grant_custom_lease` returned, or None")
        decode: Callable[[bytes], object] = _codec.decode_plain
        if request_type is not None:
            decode = _codec.typed_decoder(request_type, "request_type")
        runtime, lease = self.runtime, lease or self._lease
        await runtime.joined()
        measured = runtime.measure(self.id)
        places = admission(measured, max_concurrent_requests, max_queued_requests, queue_timeout_s)
        canary = self._canary(health_check_payload, measured)
        encode = _codec.encode if canary is None else canary.encode
        scope = runtime.exposition.scope_of(self.id)
        serving = serve_bytes(handler, decode, runtime.threads, measured, admission=places, encode=encode, scope=scope)
        listener = await runtime.requests.listen(serving)
        claim = runtime.lease if lease is None else lease.lease
        record = InstanceRecord(
            self.id.namespace,
            self.id.component,
            self.id.endpoint,
            claim.id,
            {listener.address.partition(":")[0]: listener.address},
        )
        written = msgspec.json.encode(record)
        place = runtime._instance_key(self.id, claim)
        served = ServedEndpoint(self.id, place, written, listener, drain_s, runtime.release, measured, canary)
        try:
            await served.register()
            runtime.adopt(served)
        except InvalidArgument:
            await listener.close()
            measured.listeners.remove(listener)
            raise
        except BaseException:
            # It may be registered nevertheless, with nobody behind it.
            await served.close(drain_s=0.0)
            raise
        if lease is not None:
            lease.hold(served)
        if canary is not None:
            unseen = Measured(f"the canary of {self.id}")
            canary.start(serve_bytes(handler, decode, runtime.threads, unseen, scope=scope))
        return served

    def _canary(self, payload: object, measured: Measured) -> Canary | None:
        """The canary that sends this request; None without one, or if the environment turns canaries off."""
        settings = None if payload is None else canary_settings(os.environ)
        if settings is None:
            return None
        try:
            request = _codec.encode(payload)
        except TypeError as error:
            raise wrong_type("health_check_payload", payload, f"a request ({error})") from error
        return Canary(str(self.id), request, measured, settings)

    async def client(self, *, timeouts: StreamTimeouts | None = None) -> Client:
        """Return a client that knows which instances are alive.

        `timeouts` says how long it waits for the items of a stream; without it the environment says
        (`DYN_FIRST_ITEM_TIMEOUT_S`, 120, and `DYN_INTER_ITEM_TIMEOUT_S`, 30). Nobody need serve the endpoint yet:
        `Client.wait_for_instances` waits for that. Raises a `DynamoError` if discovery does not answer.
        """
        if timeouts is not None:
            check_type("timeouts", timeouts, StreamTimeouts, "StreamTimeouts, or None")
        runtime = self.runtime
        await runtime.joined()
        client = Client(
            self.id,
            runtime.discovery,
            runtime.requests,
            runtime.rng,
            runtime.release,
            timeouts=timeouts_from_env(os.environ) if timeouts is None else timeouts,
            called=runtime.measure_calls(self.id),
        )
        try:
            runtime.adopt(client)
            await client.start()
        except BaseException:
            await client.close()
            raise
        return client


async def _first_of(*tokens: CancellationToken) -> None:
    """Wait until one of the tokens is cancelled."""
    cancelled = asyncio.Event()
    for token in tokens:
        token.add_callback(cancelled.set)
    try:
        await cancelled.wait()
    finally:
        for token in tokens:
            token.remove_callback(cancelled.set)

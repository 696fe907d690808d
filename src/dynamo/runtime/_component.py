"""Names that can be called: Namespace -> Component -> Endpoint."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import msgspec

from dynamo._core.address import EndpointId, event_subject
from dynamo._core.context import CancellationToken
from dynamo._core.errors import InvalidArgument
from dynamo.runtime import _codec
from dynamo.runtime._admission import admission
from dynamo.runtime._canary import Canary, canary_settings
from dynamo.runtime._client import Client
from dynamo.runtime._events import EventScope
from dynamo.runtime._instances import InstanceRecord
from dynamo.runtime._lease import CustomLease
from dynamo.runtime._measured import Measured
from dynamo.runtime._serving import DRAIN_S, EndpointHandler, ServedEndpoint, serve_bytes
from dynamo.runtime._timeouts import StreamTimeouts, timeouts_from_env

if TYPE_CHECKING:
    from dynamo._core.discovery.base import Lease
    from dynamo.runtime._runtime import DistributedRuntime

T = TypeVar("T")


class Namespace(EventScope):
    """A group of components that belong together."""

    def __init__(self, runtime: DistributedRuntime, name: str) -> None:
        self.runtime = runtime
        self.name = name

    def event_subject(self, topic: str) -> str:
        return event_subject(topic, self.name)

    def component(self, name: str) -> Component:
        return Component(self.runtime, self.name, name)


class Component(EventScope):
    """One kind of worker."""

    def __init__(self, runtime: DistributedRuntime, namespace: str, name: str) -> None:
        self.runtime = runtime
        self.namespace = namespace
        self.name = name

    def event_subject(self, topic: str) -> str:
        return event_subject(topic, self.namespace, self.name)

    def endpoint(self, name: str) -> Endpoint:
        return Endpoint(self.runtime, EndpointId(self.namespace, self.name, name))

    async def create_service(self) -> None:
        """Kept for older code: a component needs no preparation."""

    async def create_service_with_custom_lease(self, ttl: float = 1.0) -> CustomLease:
        """Return a lease of its own, to serve endpoints under; revoking it takes them away.

        `ttl` is how many seconds discovery keeps it when this process is gone without a word.
        """
        return await self.runtime.grant_custom_lease(ttl)


class Endpoint(EventScope):
    """A name that can be called: serve it, or make a client of it."""

    def __init__(self, runtime: DistributedRuntime, id: EndpointId, lease: CustomLease | None = None) -> None:
        self.runtime = runtime
        self.id = id
        self._lease = lease

    def event_subject(self, topic: str) -> str:
        return self.id.event_subject(topic)

    @property
    def lease(self) -> Lease:
        """The lease under which it is served here: the process's, unless it was made with one of its own."""
        return self.runtime.lease if self._lease is None else self._lease.lease

    def sibling(self, name: str) -> Endpoint:
        """Another endpoint of the same component, under the same lease."""
        return Endpoint(self.runtime, EndpointId(self.id.namespace, self.id.component, name), self._lease)

    def lease_id(self) -> int:
        """The id of that lease, and so of the instance that it registers."""
        return self.lease.id

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
        what older code gives: the lease. Everything else is as in `serve`.
        """
        if not isinstance(graceful_shutdown, bool):
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

        `request_type`, a msgspec type, is what requests are decoded into; without it they are plain values.
        With `lease` the instance lives, and is known, by that instead of the process's own. A process serves
        an endpoint once under each: raises `InvalidArgument` if this one does so already.

        With `max_concurrent_requests` no more than those run at a time; `max_queued_requests` more (16) wait for
        `queue_timeout_s` (10), and the others are refused as `Overloaded`. With `health_check_payload`, a request,
        the endpoint has a canary: when no item came out of it for a while (`DYN_CANARY_WAIT_TIME`), it is asked
        that, and is not ready if it does not answer (`DYN_HEALTH_CHECK_REQUEST_TIMEOUT`).
        """
        decode: Callable[[bytes], object] = _codec.decode_plain
        if request_type is not None:
            decode = _codec.typed_decoder(request_type)
        runtime, lease = self.runtime, lease or self._lease
        measured = runtime.measure(self.id)
        places = admission(measured, max_concurrent_requests, max_queued_requests, queue_timeout_s)
        canary = self._canary(health_check_payload, measured)
        encode = _codec.encode if canary is None else canary.encode
        serving = serve_bytes(handler, decode, runtime.threads, measured, admission=places, encode=encode)
        listener = await runtime.requests.listen(serving)
        claim = runtime.lease if lease is None else lease.lease
        record = InstanceRecord(
            self.id.namespace,
            self.id.component,
            self.id.endpoint,
            claim.id,
            {listener.address.partition(":")[0]: listener.address},
        )
        key = self.id.instance_key(claim.id)
        served = ServedEndpoint(
            self.id, runtime.discovery, claim.id, listener, drain_s, runtime.release, measured, canary
        )
        try:
            if not await runtime.discovery.create(key, msgspec.json.encode(record), claim):
                raise InvalidArgument(f"this process serves {self.id} already; close that first", endpoint=str(self.id))
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
            canary.start(serve_bytes(handler, decode, runtime.threads, Measured(f"the canary of {self.id}")))
        return served

    def _canary(self, payload: object, measured: Measured) -> Canary | None:
        """The canary that sends this request; None without one, or if the environment turns canaries off."""
        settings = None if payload is None else canary_settings(os.environ)
        return None if settings is None else Canary(str(self.id), _codec.encode(payload), measured, settings)

    async def client(self, *, timeouts: StreamTimeouts | None = None) -> Client:
        """Return a client that knows which instances are alive.

        `timeouts` says how long it waits for the items of a stream; without it the environment says
        (`DYN_FIRST_ITEM_TIMEOUT_S`, `DYN_INTER_ITEM_TIMEOUT_S`).
        """
        runtime = self.runtime
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

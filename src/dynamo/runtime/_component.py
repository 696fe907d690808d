"""Names that can be called: Namespace -> Component -> Endpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import msgspec

from dynamo._core.address import EndpointId
from dynamo._core.errors import InvalidArgument
from dynamo.runtime import _codec
from dynamo.runtime._client import Client, InstanceRecord
from dynamo.runtime._serving import DRAIN_S, EndpointHandler, ServedEndpoint, serve_bytes

if TYPE_CHECKING:
    from dynamo.runtime._runtime import DistributedRuntime

T = TypeVar("T")


class Namespace:
    """A group of components that belong together."""

    def __init__(self, runtime: DistributedRuntime, name: str) -> None:
        self.runtime = runtime
        self.name = name

    def component(self, name: str) -> Component:
        return Component(self.runtime, self.name, name)


class Component:
    """One kind of worker."""

    def __init__(self, runtime: DistributedRuntime, namespace: str, name: str) -> None:
        self.runtime = runtime
        self.namespace = namespace
        self.name = name

    def endpoint(self, name: str) -> Endpoint:
        return Endpoint(self.runtime, EndpointId(self.namespace, self.name, name))

    async def create_service(self) -> None:
        """Kept for older code: a component needs no preparation."""


class Endpoint:
    """A name that can be called: serve it, or make a client of it."""

    def __init__(self, runtime: DistributedRuntime, id: EndpointId) -> None:
        self.runtime = runtime
        self.id = id

    def lease_id(self) -> int:
        """The id of this process's lease, and so of the instance that it registers."""
        return self.runtime.lease.id

    async def serve_endpoint(self, handler: EndpointHandler, graceful_shutdown: bool = True) -> None:
        """Serve until the runtime shuts down.

        `handler` takes `(request)` or `(request, context)` and is an async generator, an async function
        or, run in a thread, their sync kin. With `graceful_shutdown` the requests that run may finish
        for 30 seconds; without it they end with `EngineShutdown` at once.
        """
        served = await self.serve(handler, drain_s=DRAIN_S if graceful_shutdown else 0.0)
        try:
            await self.runtime.wait_for_shutdown()
        finally:
            await served.close()

    async def serve(
        self, handler: EndpointHandler, *, drain_s: float = DRAIN_S, request_type: type[T] | None = None
    ) -> ServedEndpoint:
        """Listen, then register; return when the endpoint can be called.

        `request_type`, a msgspec type, is what requests are decoded into; without it they are plain values.
        A process serves an endpoint once: raises `InvalidArgument` if this one does so already.
        """
        decode: Callable[[bytes], object] = _codec.decode_plain
        if request_type is not None:
            decode = _codec.typed_decoder(request_type)
        runtime = self.runtime
        listener = await runtime.requests.listen(serve_bytes(handler, decode, runtime.threads))
        instance_id = runtime.lease.id
        record = InstanceRecord(
            self.id.namespace,
            self.id.component,
            self.id.endpoint,
            instance_id,
            {listener.address.partition(":")[0]: listener.address},
        )
        key = self.id.instance_key(instance_id)
        served = ServedEndpoint(runtime.discovery, key, instance_id, listener, drain_s, runtime.release)
        try:
            if not await runtime.discovery.create(key, msgspec.json.encode(record), runtime.lease):
                raise InvalidArgument(f"this process serves {self.id} already; close that first", endpoint=str(self.id))
            runtime.adopt(served)
        except InvalidArgument:
            await listener.close()
            raise
        except BaseException:
            # It may be registered nevertheless, with nobody behind it.
            await served.close(drain_s=0.0)
            raise
        return served

    async def client(self) -> Client:
        """Return a client that knows which instances are alive."""
        runtime = self.runtime
        client = Client(self.id, runtime.discovery, runtime.requests, runtime.rng, runtime.release)
        try:
            runtime.adopt(client)
            await client.start()
        except BaseException:
            await client.close()
            raise
        return client

"""A process's membership in the system: the planes, a lease, and an orderly end."""

from __future__ import annotations

import asyncio
import os
import random
from concurrent.futures import Executor
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, TypeVar, overload

from typing_extensions import deprecated

from dynamo._core.address import EndpointId
from dynamo._core.context import CancellationToken
from dynamo._core.discovery import discovery_url_from_env, open_discovery
from dynamo._core.discovery.base import Discovery, Lease
from dynamo._core.errors import DynamoError, NotFound
from dynamo._core.event_plane import EventPlane, check_event_plane_url, event_plane_url_from_env
from dynamo._core.request_plane import RequestPlane, open_request_plane
from dynamo._core.stability import stable
from dynamo._core.work_queue import (
    QueueLimits,
    check_work_queue_url,
    open_work_queue,
    provide_work_queue,
    work_queue_url_from_env,
)
from dynamo.runtime._arguments import check_seconds, check_text, check_type, check_url_or
from dynamo.runtime._client import Client
from dynamo.runtime._codec import JsonValue
from dynamo.runtime._endpoints import Endpoints
from dynamo.runtime._events import Events
from dynamo.runtime._exposition import Exposition
from dynamo.runtime._health import Health
from dynamo.runtime._lease import CustomLease
from dynamo.runtime._measured import Called, Measured
from dynamo.runtime._payload import payload_decoder
from dynamo.runtime._reach import (
    nats_that_is_set,
    warn_if_events_stay_here,
    warn_if_nats_is_away,
    warn_if_requests_stay_here,
)
from dynamo.runtime._served_endpoint import ServedEndpoint
from dynamo.runtime._system import SystemServer, system_settings
from dynamo.runtime._threads import HandlerThreads
from dynamo.runtime._work_queue import ServedWorkQueue, WorkQueue

if TYPE_CHECKING:
    from dynamo.metrics._metrics import Metrics
    from dynamo.runtime._compat import EtcdClient, JoinsByItself

T = TypeVar("T")
Part = ServedEndpoint | Client | CustomLease | WorkQueue[object] | ServedWorkQueue
P = TypeVar("P", bound=Part)

#: Threads for handlers that are plain functions.
HANDLER_THREADS_MAX = 32


@stable(since="0.1")
class DistributedRuntime(Endpoints):
    """A process's membership in the system: it joins on entry and leaves on exit, so use it with `async with`.

    ```python
    async with DistributedRuntime() as runtime:
        served = await runtime.serve("shop.words.count", count)
        client = await runtime.client("shop.words.count")
        async for number in await client.generate("one two", annotated=False):
            print(number)
    ```

    `discovery`, `request_plane` and `event_plane` are URLs, or implementations to share, and `work_queue` is a URL;
    without them the environment (`DYN_DISCOVERY`, `DYN_REQUEST_PLANE`, `DYN_EVENT_PLANE`, `DYN_WORK_QUEUE`) says,
    and without that the processes of one user on one host find each other. Events and work queues are opened when
    they are first used. Leaving unregisters and drains what is served, then ends the lease. With
    `DYN_SYSTEM_PORT` set, a system server tells of its health and its counters from entry to exit; not of a runtime
    with `system_server=False`, such as one of several in a process. `rng` is where chance comes from.

    A setting that is wrong is a `ConfigError`, here or on entry; entry raises another `DynamoError` if discovery or
    the address to listen at cannot be had.
    """

    @overload
    def __init__(
        self,
        *,
        discovery: str | Discovery | None = None,
        request_plane: str | RequestPlane | None = None,
        event_plane: str | EventPlane | None = None,
        work_queue: str | None = None,
        rng: random.Random | None = None,
        system_server: bool = True,
    ) -> None: ...
    @overload
    @deprecated("leave the event loop out: `async with DistributedRuntime() as runtime`; this form goes with 1.0")
    def __init__(self, event_loop: asyncio.AbstractEventLoop, is_static: bool = False, /) -> None: ...
    @overload
    @deprecated(
        "leave the event loop out: `async with DistributedRuntime(discovery=..., request_plane=...) as runtime`, "
        "with URLs; this form goes with 1.0"
    )
    def __init__(
        self,
        event_loop: asyncio.AbstractEventLoop,
        discovery_backend: str,
        request_plane: str,
        enable_nats: bool | None = None,
        *,
        event_plane: str | None = None,
    ) -> None: ...
    def __init__(
        self,
        event_loop: asyncio.AbstractEventLoop | None = None,
        discovery_backend: str | bool | None = None,
        request_plane: str | RequestPlane | None = None,
        enable_nats: bool | None = None,
        *,
        is_static: bool | None = None,
        discovery: str | Discovery | None = None,
        event_plane: str | EventPlane | None = None,
        work_queue: str | None = None,
        rng: random.Random | None = None,
        system_server: bool = True,
    ) -> None:
        self._joining: JoinsByItself | None = None
        if any(given is not None for given in (event_loop, discovery_backend, enable_nats, is_static)):
            from dynamo.runtime._compat import JoinsByItself, planes_of_before

            static = discovery_backend if is_static is None else is_static
            discovery, request_plane = planes_of_before(event_loop, static, request_plane, discovery)
            self._joining = JoinsByItself(self)
        check_url_or("discovery", discovery, "grant", "a URL such as file:///some/dir, a Discovery, or None")
        check_url_or("request_plane", request_plane, "listen", "a URL such as tcp:, a RequestPlane, or None")
        check_url_or("event_plane", event_plane, "publish", "a URL such as zmq:, an EventPlane, or None")
        check_type("work_queue", work_queue, (str, type(None)), "a URL such as nats://host:4222, or None")
        check_type("rng", rng, (random.Random, type(None)), "a random.Random, or None")
        check_type("system_server", system_server, bool, "True or False")
        self._discovery_at = discovery if discovery is not None else discovery_url_from_env(os.environ)
        self._requests_at = (
            request_plane if request_plane is not None else os.environ.get("DYN_REQUEST_PLANE") or "tcp:"
        )
        self._events_at = (
            event_plane_url_from_env(os.environ, event_plane)
            if event_plane is None or isinstance(event_plane, str)
            else event_plane
        )
        self._queues_at = work_queue_url_from_env(os.environ, work_queue)
        self.rng: random.Random = rng or random.Random()
        self._may_have_system_server = system_server
        self._discovery: Discovery | None = None
        self._requests: RequestPlane | None = None
        self._lease: Lease | None = None
        self._events: Events | None = None
        self._looking: asyncio.Task[None] | None = None
        self._threads: HandlerThreads | None = None
        self._shutdown = CancellationToken()
        self._system: SystemServer | None = None
        self._measured: dict[EndpointId, Measured] = {}
        self._called: dict[EndpointId, Called] = {}
        #: What `/metrics` of this process says; components add what they count.
        self.exposition: Exposition = Exposition(self)
        self._joined_at: float | None = None
        # What this process serves, follows and claims, until it is closed.
        self._parts: dict[Part, None] = {}
        self._health = Health(self._shutdown, self.served)
        self._has_served = False
        self._serves_else = False
        self._closed = False

    @classmethod
    @deprecated("use `async with DistributedRuntime() as runtime`; detached() goes with version 1.0")
    def detached(cls) -> DistributedRuntime:
        """Return a runtime as the environment says, which joins when it is first needed and leaves at `shutdown`."""
        from dynamo.runtime._compat import JoinsByItself

        runtime = cls()
        runtime._joining = JoinsByItself(runtime)
        return runtime

    async def joined(self) -> None:
        """Return when it has joined, if it was made in an older way: such a one joins when it is first needed.

        For one that is used with `async with` there is nothing to wait for.
        """
        if self._lease is None and self._joining is not None:
            await self._joining()

    async def __aenter__(self) -> DistributedRuntime:
        # One that joins by itself may have done so before, or be about to.
        await (self._join() if self._joining is None else self.joined())
        return self

    async def _join(self) -> None:
        if self._joined_at is not None:
            raise DynamoError("this runtime has joined before: open a new one")
        self._joined_at = asyncio.get_running_loop().time()
        discovery, requests = self._discovery_at, self._requests_at
        if isinstance(self._events_at, str):
            check_event_plane_url(self._events_at)  # now, and not when something is first to be said
        check_work_queue_url(self._queues_at)
        settings = system_settings(os.environ) if self._may_have_system_server else None
        try:
            if settings is not None:  # first, so that it can tell of a start that takes long
                self._system = SystemServer(self, settings)
                await self._system.start()
            self._discovery = open_discovery(discovery) if isinstance(discovery, str) else discovery
            self._requests = open_request_plane(requests) if isinstance(requests, str) else requests
            self._lease = await self._discovery.grant()
            self._events = Events(self._events_at, self._discovery, self._lease)
            if nats := nats_that_is_set(self._events_at, self._queues_at):
                self._looking = asyncio.create_task(warn_if_nats_is_away(nats), name="look whether NATS is there")
        except BaseException:
            await self.close()
            raise

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Leave: unregister and drain what is served, end the lease, close the planes that were opened here."""
        self.shutdown()
        self._closed = True
        # From the last line to the first, each whatever became of the others. Clients end after what is
        # served: a handler that drains may still call others.
        async with AsyncExitStack() as ends:
            ends.callback(self._end_threads)
            if self._looking is not None:
                ends.push_async_callback(self._end_looking, self._looking)
            if self._system is not None:
                ends.push_async_callback(self._system.stop)
            ends.callback(self._health.close)
            if self._discovery is not None and isinstance(self._discovery_at, str):
                ends.push_async_callback(self._discovery.close)
            if self._requests is not None and isinstance(self._requests_at, str):
                ends.push_async_callback(self._requests.close)
            if self._lease is not None:
                ends.push_async_callback(self._lease.close)
            ends.push_async_callback(self._close_parts, CustomLease)
            if self._events is not None:
                ends.push_async_callback(self._events.close)
            for kind in (ServedWorkQueue, WorkQueue, Client, ServedEndpoint):
                ends.push_async_callback(self._close_parts, kind)

    async def _close_parts(self, kind: type[object]) -> None:
        """Close all of a kind, whatever becomes of each; then raise the first error."""
        parts = [part for part in self._parts if isinstance(part, kind)]
        outcomes = await asyncio.gather(*(part.close() for part in parts), return_exceptions=True)
        for error in filter(None, outcomes):
            raise error

    async def _end_looking(self, looking: asyncio.Task[None]) -> None:
        looking.cancel()
        await asyncio.wait([looking])

    def _end_threads(self) -> None:
        if self._threads is not None:
            self._threads.shutdown()

    # The end.

    def shutdown(self) -> None:
        """Ask for an orderly end: endpoints unregister and drain, then `serve_endpoint` returns."""
        self._shutdown.cancel()

    async def wait_for_shutdown(self) -> None:
        """Wait until somebody called `shutdown`."""
        await self._shutdown.cancelled()

    def primary_token(self) -> CancellationToken:
        """The token that `shutdown` cancels."""
        return self._shutdown

    def child_token(self) -> CancellationToken:
        """A token that is cancelled by `shutdown`, or alone."""
        return self._shutdown.child_token()

    def event_loop(self) -> asyncio.AbstractEventLoop:
        """The loop that runs."""
        return asyncio.get_running_loop()

    # How it is.

    @property
    def system_url(self) -> str | None:
        """Where the system server of this process listens; None if it is off."""
        return None if self._system is None else self._system.url

    @property
    def metrics(self) -> Metrics:
        """Makes metrics of the whole process: counters, gauges and histograms that its `/metrics` shows."""
        return self.exposition.metrics()

    def set_health_status(self, ready: bool) -> None:
        """Say whether this process is ready; without a word it is as soon as it serves an endpoint.

        What is not there, drains, or has a check that is not true is not ready whatever is said here.
        """
        check_type("ready", ready, bool, "True or False")
        self._health.declared = ready

    @property
    def health(self) -> Health:
        """Whether it is alive and ready, and the checks that are asked."""
        return self._health

    def uptime_s(self) -> float:
        """How many seconds ago it joined."""
        return asyncio.get_running_loop().time() - _entered(self._joined_at)

    def served(self) -> list[ServedEndpoint]:
        """What this process serves, also what drains."""
        return [part for part in self._parts if isinstance(part, ServedEndpoint)]

    def measure(self, id: EndpointId) -> Measured:
        """The counters of an endpoint; they go on when it is closed and served again."""
        return self._measured.setdefault(id, Measured(str(id)))

    def measured(self) -> dict[EndpointId, Measured]:
        """The counters of every endpoint that was served here."""
        return dict(self._measured)

    def measure_calls(self, id: EndpointId) -> Called:
        """The counters of those who call an endpoint from here."""
        return self._called.setdefault(id, Called())

    def called(self) -> dict[EndpointId, Called]:
        """The counters of every endpoint that was called from here."""
        return dict(self._called)

    # What it holds.

    @property
    def discovery(self) -> Discovery:
        """A small key-value store with leases and watches, which tells who is alive; keys of one's own may be in it."""
        return _entered(self._discovery)

    @property
    def requests(self) -> RequestPlane:
        """What carries requests and their responses."""
        return _entered(self._requests)

    @property
    def lease(self) -> Lease:
        """This process's claim to be alive; its id is the id of every instance that it serves."""
        return _entered(self._lease)

    @property
    def serves(self) -> bool:
        """True once an endpoint was served here, or something else of which `note_serving` told."""
        return self._has_served or self._serves_else

    def note_serving(self) -> None:
        """Say that something is served here that is no endpoint, such as HTTP: a signal then lets it drain, too."""
        self._serves_else = True

    @property
    def events(self) -> Events:
        """What is published and heard; nothing is opened before something is."""
        return _entered(self._events)

    @overload
    async def work_queue(self, name: str) -> WorkQueue[JsonValue]: ...
    @overload
    async def work_queue(self, name: str, payload_type: type[T]) -> WorkQueue[T]: ...
    async def work_queue(self, name: str, payload_type: type[T] | None = None) -> WorkQueue[T]:
        """Return the work queue `name`, to put jobs in or to take some out.

        Raises `InvalidArgument` for a name that is none, and `CannotConnect` if the server of the queue is away.

        Somebody must serve it, with `serve_work_queue`; it need not be there yet. Payloads are read into
        `payload_type`, a msgspec type or a pydantic model.
        """
        check_text("name", name)
        opened = await open_work_queue(self._queues_at, name, self.requests, self.discovery)
        return await self._adopted(WorkQueue(name, opened, payload_decoder(payload_type), self.release))

    async def serve_work_queue(self, name: str, limits: QueueLimits | None = None) -> ServedWorkQueue:
        """Let others use the work queue `name`, with these limits, until it is closed or the runtime ends.

        An embedded queue is in the memory of this process: choose one that lives as long as its jobs are worth
        anything. Raises `DynamoError` if another process serves it. One on NATS is made there, and stays.
        """
        check_text("name", name)
        check_type("limits", limits, (QueueLimits, type(None)), "QueueLimits, or None")
        limits = limits or QueueLimits()
        served = await provide_work_queue(self._queues_at, name, self.requests, self.discovery, self.lease, limits)
        return await self._adopted(ServedWorkQueue(name, served, self.release))

    async def _adopted(self, part: P) -> P:
        try:
            self.adopt(part)
        except BaseException:
            await part.close()
            raise
        return part

    def threads(self) -> Executor:
        """Threads for work that would hold the loop; made on first use."""
        if self._threads is None:
            self._threads = HandlerThreads(HANDLER_THREADS_MAX)
        return self._threads

    async def grant_custom_lease(self, ttl_s: float) -> CustomLease:
        """Return a lease beside the process's own; it ends with the runtime, or when it is revoked.

        `ttl_s` is how long discovery keeps it when this process is gone without a word. Raises `InvalidArgument` if
        that is not more than 0.
        """
        check_seconds("ttl_s", ttl_s, above_zero=True)
        await self.joined()
        return await self._adopted(CustomLease(await self.discovery.grant(ttl_s), self.discovery, self.release))

    def claim(self, lease_id: int) -> Lease | CustomLease:
        """The lease of this process that has this id. Raises `NotFound` for one of another process."""
        for part in self._parts:
            if isinstance(part, CustomLease) and part.id() == lease_id:
                return part
        if self.lease.id == lease_id:
            return self.lease
        raise NotFound(f"no lease of this process has the id {lease_id!r}", lease_id=str(lease_id))

    @deprecated("use `runtime.discovery`, whichever discovery that is; etcd_client() goes with version 1.0")
    def etcd_client(self) -> EtcdClient:
        """Return what older code calls a client of etcd; it is one of the discovery, whatever that is."""
        from dynamo.runtime._compat import EtcdClient

        return EtcdClient(self)

    def adopt(self, part: Part) -> None:
        """See to it that `part` ends with the runtime, if it was not closed before."""
        if self._closed:
            raise DynamoError("this runtime is closed; open a new one")
        self._parts[part] = None
        if isinstance(part, ServedEndpoint) and not self._has_served:
            self._has_served = True
            warn_if_requests_stay_here(self._discovery_at, self._requests_at)
            warn_if_events_stay_here(self._discovery_at, self._events_at)

    def release(self, part: Part) -> None:
        """Forget a part that was closed."""
        self._parts.pop(part, None)


def _entered(held: T | None) -> T:
    if held is None:
        raise DynamoError("the runtime has not joined yet: use it inside `async with`")
    return held

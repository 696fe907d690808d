"""A process's membership in the system: the planes, a lease, and an orderly end."""

from __future__ import annotations

import asyncio
import os
import random
from concurrent.futures import Executor
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, overload
from weakref import WeakValueDictionary

from typing_extensions import deprecated

from dynamo._core.address import EndpointId
from dynamo._core.context import CancellationToken
from dynamo._core.discovery.base import Discovery, Lease
from dynamo._core.errors import DynamoError, NotFound
from dynamo._core.event_plane import EventPlane
from dynamo._core.request_plane import RequestPlane
from dynamo._core.stability import stable
from dynamo.runtime._arguments import check_seconds, check_type
from dynamo.runtime._endpoints import Endpoints
from dynamo.runtime._events import Events
from dynamo.runtime._instance_key import InstanceKey
from dynamo.runtime._lease import CustomLease
from dynamo.runtime._observed import Observed
from dynamo.runtime._parts import P, Part, Parts
from dynamo.runtime._planes import Planes, entered
from dynamo.runtime._reach import (
    nats_that_is_set,
    warn_if_events_stay_here,
    warn_if_nats_is_away,
    warn_if_requests_stay_here,
)
from dynamo.runtime._served_endpoint import ServedEndpoint
from dynamo.runtime._system import SystemServer, system_settings
from dynamo.runtime._threads import HandlerThreads
from dynamo.runtime._work_queues import WorkQueues

if TYPE_CHECKING:
    from dynamo.runtime._compat import EtcdClient, JoinsByItself

#: Threads for handlers that are plain functions.
HANDLER_THREADS_MAX = 32


@stable(since="0.1")
class DistributedRuntime(Endpoints, WorkQueues, Observed):
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
        check_type("rng", rng, (random.Random, type(None)), "a random.Random, or None")
        check_type("system_server", system_server, bool, "True or False")
        self._shutdown = CancellationToken()
        super().__init__(self._shutdown, self.served)
        self._planes = Planes(discovery, request_plane, event_plane, work_queue)
        self.rng: random.Random = rng or random.Random()
        self._may_have_system_server = system_server
        self._looking: asyncio.Task[None] | None = None
        self._threads: HandlerThreads | None = None
        self._system: SystemServer | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._joined_at: float | None = None
        self._parts = Parts()
        # Those that somebody has or waits for: whoever serves the same instance shares one.
        self._instance_keys: WeakValueDictionary[str, InstanceKey] = WeakValueDictionary()
        self._has_served = False
        self._serves_else = False

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
        if self._joining is not None and not self._planes.are_open:
            await self._joining()

    async def __aenter__(self) -> DistributedRuntime:
        # One that joins by itself may have done so before, or be about to.
        await (self._join() if self._joining is None else self.joined())
        return self

    async def _join(self) -> None:
        if self._joined_at is not None:
            raise DynamoError("this runtime has joined before: open a new one")
        self._loop = asyncio.get_running_loop()
        self._joined_at = self._loop.time()
        self._planes.check()
        settings = system_settings(os.environ) if self._may_have_system_server else None
        try:
            if settings is not None:  # first, so that it can tell of a start that takes long
                self._system = SystemServer(self, settings)
                await self._system.start()
            await self._planes.open()
            events, queues = self._planes.events_named, self._planes.queues_named
            if nats := nats_that_is_set({events.setting: events.at, queues.setting: queues.at}):
                self._looking = asyncio.create_task(warn_if_nats_is_away(nats), name="look whether NATS is there")
        except BaseException:
            await self.close()
            raise

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Leave: unregister and drain what is served, end the lease, close the planes that were opened here."""
        self.shutdown()
        self._parts.refuse_more()
        # From the last line to the first, each whatever became of the others.
        async with AsyncExitStack() as ends:
            ends.callback(self._end_threads)
            if self._looking is not None:
                ends.push_async_callback(self._end_looking, self._looking)
            if self._system is not None:
                ends.push_async_callback(self._system.stop)
            ends.callback(self._health.close)
            ends.push_async_callback(self._planes.close)
            ends.push_async_callback(self._parts.close)

    async def _end_looking(self, looking: asyncio.Task[None]) -> None:
        looking.cancel()
        await asyncio.wait([looking])

    def _end_threads(self) -> None:
        if self._threads is not None:
            self._threads.shutdown()

    # The end.

    def shutdown(self) -> None:
        """Ask for an orderly end: endpoints unregister and drain, then `serve_endpoint` returns.

        Other threads may call it, too, and handlers of signals.
        """
        loop = self._loop
        if loop is None or loop.is_closed():
            self._shutdown.cancel()
        elif asyncio._get_running_loop() is loop:
            self._shutdown.cancel()
            loop.call_soon_threadsafe(_wake)  # it may sleep: a handler of a signal runs in the midst of that
        else:
            loop.call_soon_threadsafe(self._shutdown.cancel)

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

    def uptime_s(self) -> float:
        """How many seconds ago it joined."""
        return asyncio.get_running_loop().time() - entered(self._joined_at)

    def served(self) -> list[ServedEndpoint]:
        """What this process serves, also what drains."""
        return self._parts.of(ServedEndpoint)

    # What it holds.

    @property
    def discovery(self) -> Discovery:
        """A small key-value store with leases and watches, which tells who is alive; keys of one's own may be in it."""
        return self._planes.discovery

    @property
    def requests(self) -> RequestPlane:
        """What carries requests and their responses."""
        return self._planes.requests

    @property
    def lease(self) -> Lease:
        """This process's claim to be alive; its id is the id of every instance that it serves."""
        return self._planes.lease

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
        return self._planes.events

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
        for custom in self._parts.of(CustomLease):
            if custom.id() == lease_id:
                return custom
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
        self._parts.adopt(part)
        if isinstance(part, ServedEndpoint) and not self._has_served:
            self._has_served = True
            planes = self._planes
            warn_if_requests_stay_here(planes.discovery_named.at, planes.requests_named.at)
            warn_if_events_stay_here(planes.discovery_named.at, planes.events_named.at)

    def release(self, part: Part) -> None:
        """Forget a part that was closed."""
        self._parts.release(part)

    def _instance_key(self, id: EndpointId, claim: Lease) -> InstanceKey:
        """The key of an instance of this process."""
        made = InstanceKey(id, self.discovery, claim)
        return self._instance_keys.setdefault(made.name, made)


def _wake() -> None:
    """Nothing: a loop that is told to call it looks again at what there is to do."""

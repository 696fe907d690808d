"""A process's membership in the system: the planes, a lease, and an orderly end."""

from __future__ import annotations

import asyncio
import os
import random
from concurrent.futures import Executor
from contextlib import AsyncExitStack
from typing import TypeVar

from dynamo._core.address import EndpointId
from dynamo._core.context import CancellationToken
from dynamo._core.discovery import discovery_url_from_env, open_discovery
from dynamo._core.discovery.base import Discovery, Lease
from dynamo._core.errors import DynamoError
from dynamo._core.request_plane import RequestPlane, open_request_plane
from dynamo.runtime._client import Client
from dynamo.runtime._component import Endpoint, Namespace
from dynamo.runtime._health import Health
from dynamo.runtime._lease import CustomLease
from dynamo.runtime._measured import Measured
from dynamo.runtime._serving import ServedEndpoint
from dynamo.runtime._system import SystemServer, system_settings
from dynamo.runtime._threads import HandlerThreads

Part = ServedEndpoint | Client | CustomLease
T = TypeVar("T")

#: Threads for handlers that are plain functions.
HANDLER_THREADS_MAX = 32


class DistributedRuntime:
    """Joins the system on entry and leaves it on exit: use it with `async with`.

    `discovery` and `request_plane` are URLs, or implementations to share; without them the environment
    (`DYN_DISCOVERY`, `DYN_REQUEST_PLANE`) says, and without that the processes of one user on one host
    find each other. Leaving unregisters and drains what is served, then ends the lease. With
    `DYN_SYSTEM_PORT` set, a system server tells of its health and its counters from entry to exit.
    """

    def __init__(
        self,
        *,
        discovery: str | Discovery | None = None,
        request_plane: str | RequestPlane | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._discovery_at = discovery if discovery is not None else discovery_url_from_env(os.environ)
        self._requests_at = (
            request_plane if request_plane is not None else os.environ.get("DYN_REQUEST_PLANE") or "tcp:"
        )
        self.rng = rng or random.Random()
        self._discovery: Discovery | None = None
        self._requests: RequestPlane | None = None
        self._lease: Lease | None = None
        self._threads: HandlerThreads | None = None
        self._shutdown = CancellationToken()
        self._system: SystemServer | None = None
        self._measured: dict[EndpointId, Measured] = {}
        self._joined_at: float | None = None
        # What this process serves, follows and claims, until it is closed.
        self._parts: set[Part] = set()
        self._health = Health(self._shutdown, self._served)
        self._has_served = False
        self._closed = False

    async def __aenter__(self) -> DistributedRuntime:
        self._joined_at = asyncio.get_running_loop().time()
        at = self._discovery_at
        settings = system_settings(os.environ)
        try:
            if settings is not None:  # first, so that it can tell of a start that takes long
                self._system = SystemServer(self, settings)
                await self._system.start()
            self._discovery = open_discovery(at) if isinstance(at, str) else at
            self._requests = (
                open_request_plane(self._requests_at) if isinstance(self._requests_at, str) else self._requests_at
            )
            self._lease = await self._discovery.grant()
        except BaseException:
            await self.close()
            raise
        return self

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
            ends.push_async_callback(self._close_parts, Client)
            ends.push_async_callback(self._close_parts, ServedEndpoint)

    async def _close_parts(self, kind: type[Part]) -> None:
        """Close all of a kind, whatever becomes of each; then raise the first error."""
        parts = [part for part in self._parts if isinstance(part, kind)]
        outcomes = await asyncio.gather(*(part.close() for part in parts), return_exceptions=True)
        for outcome in outcomes:
            if outcome is not None:
                raise outcome

    def _end_threads(self) -> None:
        if self._threads is not None:
            self._threads.shutdown()

    # Names.

    def namespace(self, name: str) -> Namespace:
        return Namespace(self, name)

    def endpoint(self, path: str) -> Endpoint:
        """The endpoint `ns.comp.ep`, with or without `dyn://` before it."""
        return Endpoint(self, EndpointId.parse(path))

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
        return asyncio.get_running_loop()

    # How it is.

    @property
    def system_url(self) -> str | None:
        """Where the system server of this process listens; None if it is off."""
        return None if self._system is None else self._system.url

    def set_health_status(self, ready: bool) -> None:
        """Say whether this process is ready; without a word it is as soon as it serves an endpoint.

        What is not there, drains, or has a check that is not true is not ready whatever is said here.
        """
        self._health.declared = ready

    @property
    def health(self) -> Health:
        """Whether it is alive and ready, and the checks that are asked."""
        return self._health

    def uptime_s(self) -> float:
        """How long ago it joined."""
        return asyncio.get_running_loop().time() - _entered(self._joined_at)

    def _served(self) -> list[ServedEndpoint]:
        return [part for part in self._parts if isinstance(part, ServedEndpoint)]

    def measure(self, id: EndpointId) -> Measured:
        """The counters of an endpoint; they go on when it is closed and served again."""
        return self._measured.setdefault(id, Measured(str(id)))

    def measured(self) -> dict[EndpointId, Measured]:
        """The counters of every endpoint that was served here."""
        return dict(self._measured)

    # What it holds.

    @property
    def discovery(self) -> Discovery:
        return _entered(self._discovery)

    @property
    def requests(self) -> RequestPlane:
        return _entered(self._requests)

    @property
    def lease(self) -> Lease:
        """This process's claim to be alive; its id is the id of every instance that it serves."""
        return _entered(self._lease)

    @property
    def serves(self) -> bool:
        """True once an endpoint was served here."""
        return self._has_served

    def threads(self) -> Executor:
        """Threads for work that would hold the loop; made on first use."""
        if self._threads is None:
            self._threads = HandlerThreads(HANDLER_THREADS_MAX)
        return self._threads

    async def grant_custom_lease(self, ttl_s: float) -> CustomLease:
        """Return a lease beside the process's own; it ends with the runtime, or when it is revoked."""
        lease = CustomLease(await self.discovery.grant(ttl_s), self.discovery, self.release)
        try:
            self.adopt(lease)
        except BaseException:
            await lease.close()
            raise
        return lease

    def adopt(self, part: Part) -> None:
        """See to it that `part` ends with the runtime, if it was not closed before."""
        if self._closed:
            raise DynamoError("this runtime is closed; open a new one")
        self._parts.add(part)
        self._has_served = self._has_served or isinstance(part, ServedEndpoint)

    def release(self, part: Part) -> None:
        """Forget a part that was closed."""
        self._parts.discard(part)


def _entered(held: T | None) -> T:
    if held is None:
        raise DynamoError("the runtime has not joined yet: use it inside `async with`")
    return held

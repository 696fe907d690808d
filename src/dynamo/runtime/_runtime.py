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
from dynamo.runtime._serving import ServedEndpoint
from dynamo.runtime._threads import HandlerThreads

T = TypeVar("T")

#: Threads for handlers that are plain functions.
HANDLER_THREADS_MAX = 32


class DistributedRuntime:
    """Joins the system on entry and leaves it on exit: use it with `async with`.

    `discovery` and `request_plane` are URLs, or implementations to share; without them the environment
    (`DYN_DISCOVERY`, `DYN_REQUEST_PLANE`) says, and without that the processes of one user on one host
    find each other. Leaving unregisters and drains what is served, then ends the lease.
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
        # What this process serves and follows, until it is closed.
        self._parts: set[ServedEndpoint | Client] = set()
        self._has_served = False
        self._closed = False

    async def __aenter__(self) -> DistributedRuntime:
        at = self._discovery_at
        self._discovery = open_discovery(at) if isinstance(at, str) else at
        try:
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
            if self._discovery is not None and isinstance(self._discovery_at, str):
                ends.push_async_callback(self._discovery.close)
            if self._requests is not None and isinstance(self._requests_at, str):
                ends.push_async_callback(self._requests.close)
            if self._lease is not None:
                ends.push_async_callback(self._lease.close)
            ends.push_async_callback(self._close_parts, Client)
            ends.push_async_callback(self._close_parts, ServedEndpoint)

    async def _close_parts(self, kind: type[ServedEndpoint | Client]) -> None:
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

    def adopt(self, part: ServedEndpoint | Client) -> None:
        """See to it that `part` ends with the runtime, if it was not closed before."""
        if self._closed:
            raise DynamoError("this runtime is closed; open a new one")
        self._parts.add(part)
        self._has_served = self._has_served or isinstance(part, ServedEndpoint)

    def release(self, part: ServedEndpoint | Client) -> None:
        """Forget a part that was closed."""
        self._parts.discard(part)


def _entered(held: T | None) -> T:
    if held is None:
        raise DynamoError("the runtime has not joined yet: use it inside `async with`")
    return held

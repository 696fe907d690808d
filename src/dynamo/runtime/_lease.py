"""A lease beside the process's own: what is served under it can be taken away alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dynamo._core.context import CancellationToken
from dynamo._core.discovery.base import Discovery, Lease
from dynamo._core.stability import stable
from dynamo.runtime._served_endpoint import ServedEndpoint


@stable(since="0.1", constructor=False)
class CustomLease:
    """A claim that some instances of this process are alive, until it is revoked.

    `DistributedRuntime.grant_custom_lease` and `Component.create_service_with_custom_lease` return one.
    """

    def __init__(self, lease: Lease, discovery: Discovery, on_close: Callable[[CustomLease], None]) -> None:
        #: The claim itself, as discovery knows it.
        self.lease = lease
        #: Cancelled when the lease is revoked or closed.
        self.revoked: CancellationToken = CancellationToken()
        self._discovery = discovery
        self._on_close = on_close
        self._ending: asyncio.Task[None] | None = None
        self._served: list[ServedEndpoint] = []

    def id(self) -> int:
        """The id of the instances that are served under the lease."""
        return self.lease.id

    async def is_valid(self) -> bool:
        """Whether it was not revoked, and discovery still has everything that is served under it."""
        if self.revoked.is_cancelled():
            return False
        for served in self._served:
            if served.key not in await self._discovery.get_prefix(served.key) and served.is_registered:
                return False
        return not self.revoked.is_cancelled()

    def revoke(self) -> None:
        """Take every instance under the lease away at once. Requests that run may finish. Call it once or more."""
        if self._ending is None:
            self._ending = asyncio.get_running_loop().create_task(self._end(), name="revoke a lease")
            self.revoked.cancel()

    async def close(self) -> None:
        """Revoke, and return when discovery has it. Later calls wait for the first."""
        self.revoke()
        assert self._ending is not None
        await asyncio.shield(self._ending)

    def hold(self, served: ServedEndpoint) -> None:
        """Note what is served under the lease."""
        self._served = [other for other in self._served if other.is_open] + [served]

    async def _end(self) -> None:
        try:
            await self.lease.close()
        finally:
            self._on_close(self)

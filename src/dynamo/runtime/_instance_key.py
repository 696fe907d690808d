"""The key of an instance in discovery, and which endpoint of this process has it.

What was sent to discovery may have been done although nobody heard of it. So whoever is interrupted while it puts
its key deletes it; and that must not be the key of another one, which serves the same endpoint under the same lease
and came first. Those two share one `InstanceKey`, and take turns.

The id of the lease is in the key, so nobody but this process has it: what stands in discovery while nobody here serves
it was left behind, by one whose key could not be deleted in time, and is replaced.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from dynamo._core.address import EndpointId

if TYPE_CHECKING:
    from dynamo._core.discovery.base import Discovery, Lease
    from dynamo.runtime._served_endpoint import ServedEndpoint


class InstanceKey:
    """One key, that one endpoint of this process has at a time."""

    def __init__(self, id: EndpointId, discovery: Discovery, claim: Lease) -> None:
        self.name: str = id.instance_key(claim.id)
        self.instance_id: int = claim.id
        self._discovery = discovery
        self._claim = claim
        self._turn = asyncio.Lock()
        # Who has put it, or may have, and whether that is sure. Changed only by who has the turn.
        self._holder: ServedEndpoint | None = None
        self._is_sure = False

    def is_put_by(self, holder: ServedEndpoint) -> bool:
        """Whether it is there for `holder`, for all that is known here."""
        return self._holder is holder and self._is_sure

    async def put(self, holder: ServedEndpoint, record: bytes) -> bool:
        """Put it for `holder`. False, and nothing changed, if another one that is open has it."""
        async with self._turn:
            before = self._holder
            if before is not None and before is not holder and before.is_open:
                return False
            self._holder, self._is_sure = holder, False
            await self._discovery.put(self.name, record, self._claim)
            self._is_sure = True
            return True

    async def delete(self, holder: ServedEndpoint) -> None:
        """Delete it if `holder` has it, or may have it."""
        if self._holder is not holder:
            return
        async with self._turn:
            if self._holder is holder:
                self._is_sure = False
                await self._discovery.delete(self.name)
                self._holder = None

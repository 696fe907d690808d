"""What a runtime serves, follows and claims, until it is closed."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TypeVar

from dynamo._core.errors import DynamoError
from dynamo.runtime._client import Client
from dynamo.runtime._lease import CustomLease
from dynamo.runtime._served_endpoint import ServedEndpoint
from dynamo.runtime._work_queue import ServedWorkQueue, WorkQueue

Part = ServedEndpoint | Client | CustomLease | WorkQueue[object] | ServedWorkQueue
P = TypeVar("P", bound=Part)

#: One kind after the other ends: a handler that drains may still call others, under the lease that it has.
_KINDS: tuple[type[Part], ...] = (ServedEndpoint, Client, WorkQueue, ServedWorkQueue, CustomLease)


class Parts:
    """The parts of one runtime. Each says when it was closed by somebody else."""

    def __init__(self) -> None:
        self._parts: dict[Part, None] = {}  # a dict for its order, which is that of every run
        self._takes_more = True

    def adopt(self, part: Part) -> None:
        """See to it that `part` ends with the runtime. Raises `DynamoError` if that has ended."""
        if not self._takes_more:
            raise DynamoError("this runtime is closed; open a new one")
        self._parts[part] = None

    def release(self, part: Part) -> None:
        """Forget a part that was closed."""
        self._parts.pop(part, None)

    def of(self, kind: type[P]) -> list[P]:
        """Those of a kind, the oldest first."""
        return [part for part in self._parts if isinstance(part, kind)]

    def refuse_more(self) -> None:
        """Take no more parts: the runtime ends."""
        self._takes_more = False

    async def close(self) -> None:
        """Close them all, whatever becomes of each; then raise an error, if there was one."""
        async with AsyncExitStack() as ends:  # from the last line to the first
            for kind in reversed(_KINDS):
                ends.push_async_callback(self._close, kind)

    async def _close(self, kind: type[Part]) -> None:
        outcomes = await asyncio.gather(*(part.close() for part in self.of(kind)), return_exceptions=True)
        for error in filter(None, outcomes):
            raise error

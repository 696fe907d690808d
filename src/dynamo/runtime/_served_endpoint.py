"""An endpoint as this process serves it: registered, asleep, draining, closed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from dynamo._core import request_plane
from dynamo._core.address import EndpointId
from dynamo._core.errors import InvalidArgument
from dynamo._core.stability import stable
from dynamo.runtime._arguments import check_seconds
from dynamo.runtime._measured import Measured

if TYPE_CHECKING:
    from dynamo.runtime._canary import Canary
    from dynamo.runtime._instance_key import InstanceKey

logger = logging.getLogger(__name__)

#: How long a closing endpoint waits for the requests that run.
DRAIN_S = 30.0
#: Discovery has so long to take an endpoint out; it ends with its lease in any case.
UNREGISTER_TIMEOUT_S = 2.0


@stable(since="0.1", constructor=False)
class ServedEndpoint:
    """An endpoint that takes requests, until it is closed. `serve` returns one."""

    def __init__(
        self,
        id: EndpointId,
        place: InstanceKey,
        record: bytes,
        listener: request_plane.Listener,
        drain_s: float,
        on_close: Callable[[ServedEndpoint], None],
        measured: Measured,
        canary: Canary | None = None,
    ) -> None:
        self.id = id
        self.instance_id: int = place.instance_id
        #: Where discovery holds it.
        self.key: str = place.name
        self._on_close = on_close
        self._place = place
        self._record = record
        self._listener = listener
        self._drain_s = drain_s
        self._measured = measured
        measured.listeners.append(listener)
        self._canary = canary
        self._closing: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether it takes requests; not while it drains."""
        return self._closing is None

    @property
    def is_registered(self) -> bool:
        """Whether callers find it; not while it sleeps or drains."""
        return self.is_open and self._place.is_put_by(self)

    @property
    def complaint(self) -> str:
        """Why it is not ready although it takes requests; empty if all is well."""
        return "" if self._canary is None else self._canary.complaint

    async def register(self) -> None:
        """Let callers find it, as after `unregister`; if they do already, nothing changes.

        Raises `InvalidArgument` if it is closed, or if the process serves the same endpoint once more, and another
        `DynamoError` if discovery cannot take it.
        """
        if self.is_registered:
            return
        if self.is_open and not await self._place.put(self, self._record):
            raise InvalidArgument(f"this process serves {self.id} already; close that first", endpoint=str(self.id))
        if not self.is_open:
            await self._place.delete(self)  # it was closed meanwhile
            raise InvalidArgument(f"{self.id} is closed here; serve it again", endpoint=str(self.id))

    async def unregister(self) -> None:
        """Go to sleep: nobody finds it any more, and the process is not ready, until `register` is called.

        It still takes what callers send that have not heard of it, and requests that run go on.
        """
        await self._place.delete(self)

    async def close(self, drain_s: float | None = None) -> None:
        """Unregister, let running requests finish for `drain_s` seconds, then end them with `EngineShutdown`.

        Without `drain_s` it is what `serve` was told, 30 seconds unless that said otherwise; 0 ends them at once.
        Later calls wait for the first. Raises `InvalidArgument` for a time that is none.
        """
        check_seconds("drain_s", drain_s, or_none="as long as `serve` was told")
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close(self._drain_s if drain_s is None else drain_s))
        await asyncio.shield(self._closing)

    async def _close(self, drain_s: float) -> None:
        if self._canary is not None:
            self._canary.cancel()
        try:
            await self._leave_discovery()
        finally:
            began_at = asyncio.get_running_loop().time()
            try:
                await self._listener.close(drain_s)
            finally:
                self._measured.note_closed(self._listener, asyncio.get_running_loop().time() - began_at, drain_s)
                if self._canary is not None:
                    await self._canary.stop()
                self._on_close(self)

    async def _leave_discovery(self) -> None:
        """Unregister. If discovery does not answer, the requests that run must not lose the time they have."""
        try:
            async with asyncio.timeout(UNREGISTER_TIMEOUT_S):
                await self.unregister()
        except TimeoutError:
            logger.warning(
                "discovery did not take %s out within %g s: callers hear from this process that it takes no more",
                self.id,
                UNREGISTER_TIMEOUT_S,
            )

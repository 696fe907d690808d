"""The requests that are being answered now, and the one way to end one early.

Whatever ends a request before its answer is complete (the client left, its time was up, the server
shuts down) gives its reason to `ActiveRequest.end`, which cancels the task that answers. The task
unwinds, which cancels the work behind it on every hop, and then finds the reason here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import Receive

from dynamo._core.errors import Cancelled, DeadlineExceeded, DynamoError, EngineShutdown, Overloaded

REQUESTS_MAX = 16384
UNWIND_S = 5.0

logger = logging.getLogger(__name__)


class ClientGone(Cancelled):
    """The client closed the connection; there is nobody to answer."""


class ActiveRequest:
    """One request, from its first byte to the last of its answer."""

    __slots__ = ("_task", "_timer", "_watcher", "deadline", "reason", "request_id")

    def __init__(self, request_id: str, timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        self.request_id = request_id
        #: Why the request was ended early; None if it was not.
        self.reason: DynamoError | None = None
        self.deadline = loop.time() + timeout_s
        self._task = task
        self._timer = loop.call_at(self.deadline, self._expire, timeout_s)
        self._watcher: asyncio.Task[None] | None = None

    def end(self, reason: DynamoError) -> None:
        """End the request. The first reason counts."""
        if self.reason is None:
            self.reason = reason
            self._task.cancel()

    def watch(self, receive: Receive) -> None:
        """End the request when its client closes the connection. Call it once the body is read."""
        self._watcher = asyncio.get_running_loop().create_task(self._until_gone(receive))

    def close(self) -> None:
        """Stop every watch."""
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()

    async def _until_gone(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.end(ClientGone(f"the client of request {self.request_id} closed the connection"))

    def _expire(self, timeout_s: float) -> None:
        self.end(DeadlineExceeded(f"the request was not answered within {timeout_s:g} s"))


class ActiveRequests:
    """Every request that is being answered, by its id."""

    def __init__(self, *, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._requests: dict[str, ActiveRequest] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        #: True once the server shuts down: whatever comes now is refused.
        self.draining = False

    def __len__(self) -> int:
        return len(self._requests)

    @contextmanager
    def begin(self, request_id: str) -> Iterator[ActiveRequest]:
        """Count a request while it is answered. An id that is in use gets a suffix: ids are unique."""
        if self.draining:
            raise EngineShutdown("the server is shutting down: send the request to another one")
        if len(self._requests) >= REQUESTS_MAX:
            raise Overloaded(f"{REQUESTS_MAX} requests are being answered already: try again later")
        while request_id in self._requests:
            request_id = f"{request_id}-{secrets.token_hex(4)}"
        request = self._requests[request_id] = ActiveRequest(request_id, self._timeout_s)
        self._idle.clear()
        try:
            yield request
        finally:
            request.close()
            del self._requests[request_id]
            if not self._requests:
                self._idle.set()

    async def drain(self, timeout_s: float) -> None:
        """Refuse what comes, give what runs `timeout_s` to finish, then end it with an error.

        Whoever does not wait so long, and cancels this, ends it at once.
        """
        self.draining = True
        try:
            await self._idle_within(timeout_s)
        finally:
            if self._requests:
                logger.warning("%d requests did not finish in time and are ended", len(self))
            for request in list(self._requests.values()):
                request.end(EngineShutdown("the server is shutting down"))
        await self._idle_within(UNWIND_S)

    async def _idle_within(self, timeout_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()

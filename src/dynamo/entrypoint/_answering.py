"""Who answers: an engine in this process, or workers elsewhere. To who asks, both are a runtime with models.

An engine here is a worker like any other: it is served, registered and called through a runtime, whose
planes just do not leave the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol, TypeVar

from dynamo._core.errors import EngineShutdown
from dynamo.runtime import DistributedRuntime

T = TypeVar("T")

#: Waits until who answers ends by itself, and returns why.
Ended = Callable[[], Awaitable[EngineShutdown]]


class Answering(Protocol):
    """Whoever answers, for who asks."""

    #: Models are looked for in this namespace only; None: in all.
    namespace: str | None
    #: The model to ask; None: the only one that there is.
    model_name: str | None
    #: Whether it is this process that answers.
    is_here: bool
    #: How long to wait for the model.
    ready_timeout_s: float

    def runtime(self) -> AbstractAsyncContextManager[DistributedRuntime]:
        """Join the system in which the model is found."""

    def serving(self, runtime: DistributedRuntime) -> AbstractAsyncContextManager[Ended]:
        """See to it that somebody serves the model."""


async def until_ended(ended: Ended, work: Coroutine[object, object, T]) -> T:
    """Do the work. If who answers ends before it is done, stop it, and raise why."""
    working, ending = asyncio.ensure_future(work), asyncio.ensure_future(ended())
    try:
        await asyncio.wait([working, ending], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ending.result()
        return working.result()
    finally:
        working.cancel()
        ending.cancel()
        await asyncio.gather(working, ending, return_exceptions=True)


@asynccontextmanager
async def served_elsewhere() -> AsyncIterator[Ended]:
    """Workers serve already; one that ends is the business of the others."""
    yield _never


async def _never() -> EngineShutdown:
    await asyncio.Event().wait()
    raise AssertionError("nobody sets this event")

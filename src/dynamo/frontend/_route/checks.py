"""Looks after the servers behind a route: whether they answer, and which models they have."""

from __future__ import annotations

import asyncio
import logging

from dynamo._core.errors import CannotConnect, DynamoError
from dynamo.frontend._route.backends import Backend, Backends
from dynamo.frontend._route.upstream import Upstream
from dynamo.runtime._quarantine import Fault

logger = logging.getLogger(__name__)

#: After so many checks in a row without an answer, nobody waits for a first answer who can ask another one.
STALLS_MAX = 3

#: One that is passed over is looked at again after so long, if that is sooner than usual.
RECHECK_S = 1.0


class Checks:
    """Asks each server for its models again and again, from `start` to `close`.

    A server that takes no connection, or says that it cannot serve, gets no requests; one that is too slow to answer
    a check may just be busy, and is only passed over while others are better (see `Quarantine`).
    """

    def __init__(self, backends: Backends, upstream: Upstream, *, interval_s: float, timeout_s: float) -> None:
        self._backends = backends
        self._upstream = upstream
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._tasks: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()

    def start(self) -> None:
        """Begin to ask."""
        self._tasks = [asyncio.create_task(self._follow(backend), name=backend.url) for backend in self._backends]

    async def close(self) -> None:
        """Ask no more. A second call changes nothing."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def wait_ready(self) -> None:
        """Wait until a server answers, and each was looked at."""
        while not (any(one.is_well for one in self._backends) and all(one.is_known for one in self._backends)):
            self._changed.clear()
            await self._changed.wait()

    async def _follow(self, backend: Backend) -> None:
        num_stalls = 0
        try:
            while True:
                num_stalls = num_stalls + 1 if await self._check(backend) else 0
                if num_stalls >= STALLS_MAX and self._is_another_well(backend):
                    backend.give_up(asyncio.get_running_loop().time())
                self._changed.set()
                await asyncio.sleep(min(self._interval_s, RECHECK_S) if backend.why_out else self._interval_s)
        except Exception:
            logger.exception("%s is no longer looked after", backend.url)
            raise

    async def _check(self, backend: Backend) -> bool:
        """Look at a server; return whether it is connected and silent."""
        mark = self._backends.quarantine.mark
        try:
            async with asyncio.timeout(self._timeout_s):
                models = await self._upstream.models(backend.url)
        except CannotConnect as error:
            self._note(backend, Fault.UNREACHABLE, error.message)
        except DynamoError as error:
            self._note(backend, Fault.LOST, error.message)
        except TimeoutError:
            why = f"{backend.url} did not answer a check within {self._timeout_s:g} s"
            self._note(backend, Fault.STALLED, why)
            return True
        else:
            if models is not None:
                self._backends.note_models(backend.id, models)
            self._backends.note_answer(backend.id, mark)
        return False

    def _is_another_well(self, backend: Backend) -> bool:
        return any(other.is_well for other in self._backends if other is not backend)

    def _note(self, backend: Backend, fault: Fault, why: str) -> None:
        self._backends.note_fault(backend.id, fault, why, asyncio.get_running_loop().time(), is_probe=True)

"""The hosts of a simulation: what runs on one can be stopped, continued, and end at once."""

from __future__ import annotations

import asyncio
from asyncio.events import Handle, TimerHandle
from collections.abc import Callable, Coroutine
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from tests.sim.loop import SimLoop

T = TypeVar("T")

#: The host that the current callback belongs to; none is the simulation itself.
current_host: ContextVar[Host | None] = ContextVar("current_host", default=None)

Wrap = Callable[[Coroutine[object, object, object]], Coroutine[object, object, object]]


class Host:
    """A machine of the simulation."""

    def __init__(self, loop: SimLoop, name: str, address: str) -> None:
        self.name = name
        self.address = address
        self.is_stopped = False
        self.is_dead = False
        #: Whether it was stopped at some time.
        self.was_stopped = False
        #: Every task of the host that is not done.
        self.tasks: dict[asyncio.Task[object], None] = {}
        #: Put around the coroutine of each task that starts here, if set.
        self.wrap: Wrap | None = None
        self._loop = loop
        # What became ready while nothing of the host runs.
        self._waiting: list[Handle] = []

    @property
    def is_running(self) -> bool:
        return not (self.is_dead or self.is_stopped)

    def run(self, work: Coroutine[object, object, T], name: str | None = None) -> asyncio.Task[T]:
        """Start a task on this host."""
        context = copy_context()
        context.run(current_host.set, self)
        return self._loop.create_task(work, name=name, context=context)

    def stop(self) -> None:
        """Freeze it, as SIGSTOP does: its sockets stay, and nothing of it runs."""
        self.is_stopped = self.was_stopped = True

    def go_on(self) -> None:
        """Continue: what its sockets received comes before the timers that are due, as in a real loop."""
        if self.is_dead:
            return
        self.is_stopped = False
        waiting, self._waiting = self._waiting, []
        for handle in sorted(waiting, key=lambda handle: isinstance(handle, TimerHandle)):
            self._loop.make_ready(handle)

    def crash(self) -> None:
        """End at once. What it was doing is kept, and never goes on."""
        self.is_dead = True

    def hold(self, handle: Handle) -> None:
        self._waiting.append(handle)

    def __repr__(self) -> str:
        return self.name

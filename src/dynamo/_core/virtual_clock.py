"""An event loop whose time is not the world's: it jumps to the next timer when nothing is ready.

An hour takes as long as what happens in it. There are no sockets and no threads: what is handed to an executor happens
in the loop. Everything that takes its time from the loop runs on it unchanged, and the same way each time.
"""

from __future__ import annotations

import asyncio
import collections
import heapq
import math
from asyncio.events import Handle, TimerHandle
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from contextvars import Context as VarContext
from typing import Any, TypeVar

T = TypeVar("T")

START_S = 1000.0
#: So many turns without a step of the clock are an endless loop.
TURNS_AT_ONCE_MAX = 100_000


class Deadlock(Exception):
    """Everything waits, and no timer will wake anything."""


class Livelock(Exception):
    """The clock stands still while callbacks run on and on."""


class Endless(Exception):
    """The clock runs, and the run does not end."""


class VirtualClockLoop(asyncio.BaseEventLoop):
    """asyncio's loop, with a clock of its own. A run that is not over at `end_s` has no end."""

    # What BaseEventLoop keeps, and typeshed does not tell.
    _ready: collections.deque[Handle]
    _scheduled: list[TimerHandle]
    _timer_cancelled_count: int
    _stopping: bool

    def __init__(self, *, end_s: float = math.inf) -> None:
        super().__init__()
        self.num_turns = 0
        self._now_s = START_S
        self._end_s = end_s
        self._turns_at_once = 0

    def time(self) -> float:
        """Seconds; those that nobody waits through take no time."""
        return self._now_s

    def run_in_executor(
        self, executor: Executor | None, function: Callable[..., T], *args: object
    ) -> asyncio.Future[T]:
        """There are no threads: it happens here, a little later."""
        future = self.create_future()

        def work() -> None:
            if future.cancelled():
                return
            try:
                future.set_result(function(*args))
            except BaseException as error:
                future.set_exception(error)

        self.call_later(self._executor_delay_s(), work)
        return future

    def call_soon_threadsafe(
        self, callback: Callable[..., object], *args: object, context: VarContext | None = None
    ) -> Handle:
        return self.call_soon(callback, *args, context=context)

    def _executor_delay_s(self) -> float:
        return 0.0

    def _run_once(self) -> None:
        """Let everything run that is ready, as asyncio would."""
        self._begin_turn()
        ready, self._ready = self._ready, collections.deque()
        for handle in ready:
            if not handle.cancelled():
                handle._run()

    def _begin_turn(self) -> None:
        """Have what is due ready, and step on to what is due next if nothing is."""
        self.num_turns += 1
        self._turns_at_once += 1
        if self._turns_at_once > TURNS_AT_ONCE_MAX:
            raise Livelock(f"{TURNS_AT_ONCE_MAX} turns at {self._now_s:.6f} s")
        timers = self._scheduled
        while timers and timers[0].cancelled():
            heapq.heappop(timers)._scheduled = False  # type: ignore[attr-defined]
        if not self._ready and not self._stopping:
            if not timers:
                raise Deadlock("every task waits, and no timer is set")
            if timers[0].when() > self._now_s:
                self._now_s = timers[0].when()
                self._turns_at_once = 0
            if self._now_s > self._end_s:
                raise Endless(f"not over at {self._end_s:g} s")
        while timers and timers[0].when() <= self._now_s:
            timer = heapq.heappop(timers)
            timer._scheduled = False  # type: ignore[attr-defined]
            self._ready.append(timer)

    def _timer_handle_cancelled(self, handle: TimerHandle) -> None:
        """Cancelled timers are dropped when they are due."""

    def _process_events(self, event_list: object) -> None:
        """There are none: nothing here has a socket."""


def run_virtually(main: Coroutine[Any, Any, T], *, end_s: float = math.inf) -> T:
    """Run a coroutine to its end on a clock of its own. Ctrl-C ends it as it does with `asyncio.run`."""
    with asyncio.Runner(loop_factory=lambda: VirtualClockLoop(end_s=end_s)) as runner:
        return runner.run(main)

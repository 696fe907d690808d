"""One place of a worker: an index and an environment, and the processes that fill it one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from dynamo.sdk._status import START_TIMEOUT_S, Failed, Report

#: How long a worker that has not become ready, and so has nothing to let end, may take to go when it is told.
UNREADY_STOP_S = 2.0


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """When a worker that ended by itself is started again, and when no more."""

    first_delay_s: float = 0.5
    delay_s_max: float = 30.0
    #: A worker that was ready for so long starts the delays from the first one.
    steady_s: float = 60.0
    #: So many starts in a row may fail.
    failed_starts_max: int = 5
    #: A start that failed because a server is away, as etcd, is no fault of the worker, and does not count. The next
    #: one waits for at most so long, so that the worker is back soon after the server is.
    away_delay_s_max: float = 5.0


class Backoff:
    """How long the next start has to wait, by what became of those before."""

    def __init__(self, policy: RestartPolicy) -> None:
        self._policy = policy
        self._delay_s = policy.first_delay_s
        self._ready_at: float | None = None
        #: Starts in a row that failed.
        self.failed_starts = 0
        #: Starts since it was last steady.
        self.restarts = 0

    def became_ready(self, now: float) -> None:
        self._ready_at = now
        self.failed_starts = 0

    def delay_after_end(self, now: float, *, is_away: bool = False) -> float | None:
        """How long to wait before the next start; None if it is the last one that has failed.

        `is_away` says that it failed because a server that the worker needs is away.
        """
        if self._ready_at is None:
            self.failed_starts += not is_away
        elif now - self._ready_at >= self._policy.steady_s:
            self._delay_s = self._policy.first_delay_s
            self.restarts = 0
        self._ready_at = None
        if self.failed_starts >= self._policy.failed_starts_max:
            return None
        delay_s_max = self._policy.away_delay_s_max if is_away else self._policy.delay_s_max
        delay_s = min(self._delay_s, delay_s_max)
        self._delay_s = min(2 * self._delay_s, delay_s_max)
        self.restarts += 1
        return delay_s


class Worker(Protocol):
    """A process that fills a slot, as `WorkerProcess` is."""

    report: Report
    ended: asyncio.Event
    exit_status: int | None

    @property
    def is_ready(self) -> bool: ...
    @property
    def has_stopped(self) -> bool: ...
    @property
    def how_it_ended(self) -> str: ...

    async def run(self) -> None: ...
    def retire(self) -> None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Loss:
    """A worker ended and nobody had asked it to."""

    how: str
    was_ready: bool
    #: Until the next start; None if there is none.
    delay_s: float | None
    #: Which restart the next one is.
    restarts: int
    #: In a row.
    failed_starts: int


class Observer(Protocol):
    """Who is told what happens in a slot."""

    def changed(self) -> None: ...
    def lost(self, slot: Slot, loss: Loss) -> None: ...
    def ready_again(self, slot: Slot) -> None: ...


class Slot:
    """Keeps one place filled, from `run` until `stop` or until its restarts are used up."""

    def __init__(
        self,
        name: str,
        number: int,
        launch: Callable[[Callable[[], None]], Worker],
        observer: Observer,
        policy: RestartPolicy | None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """`launch` makes the next process, which calls what it is given whenever it has something to tell."""
        self.name = name  # of the service
        self.label = f"{name}:{number}"
        self._launch = launch
        self._observer = observer
        self._backoff = None if policy is None else Backoff(policy)
        self._clock = clock or asyncio.get_running_loop().time
        # The mutable state.
        self.worker: Worker = launch(self._on_change)
        #: True from when the whole graph was ready until it ends: only then what crashes may be started again.
        self.in_service = False
        #: True when no process is left here, and none will come.
        self.is_over = False
        self._heard_ready = False
        self._is_first = True
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Fill the place until it is stopped or given up."""
        try:
            while True:
                await self._run_worker()
                if self._stopping.is_set() or not await self._may_go_on():
                    return
                self._heard_ready, self._is_first = False, False
                self.worker = self._launch(self._on_change)
        finally:
            self.is_over = True
            self._observer.changed()

    def stop(self) -> None:
        """Ask the worker to end, and start no other. One that is not ready yet is not waited for."""
        self._end(self.worker.terminate)

    def retire(self) -> None:
        """Have the worker end when nobody can be about to call it; otherwise as `stop`."""
        self._end(self.worker.retire)

    def kill(self) -> None:
        """End the worker at once, and start no other."""
        self._stopping.set()
        self.worker.kill()

    @property
    def is_ready(self) -> bool:
        return self.worker.is_ready

    @property
    def runs(self) -> bool:
        """True while it has a process."""
        return not self.worker.ended.is_set()

    @property
    def has_stopped(self) -> bool:
        """True when a stop needs to wait no longer for what it does."""
        return self.is_over or self.worker.has_stopped

    def _end(self, tell_worker: Callable[[], None]) -> None:
        self._stopping.set()
        was_ready = self.is_ready
        tell_worker()
        if not was_ready and not self.is_over:
            asyncio.get_running_loop().call_later(UNREADY_STOP_S, self.kill)

    async def _run_worker(self) -> None:
        # The first start is bounded by whoever waits for the whole graph.
        overdue = asyncio.get_running_loop().call_later(START_TIMEOUT_S, self._end_if_not_ready)
        try:
            await self.worker.run()
        finally:
            overdue.cancel()

    def _end_if_not_ready(self) -> None:
        if not self._heard_ready:
            self.worker.kill()

    async def _may_go_on(self) -> bool:
        """Tell of the loss, and wait as long as the next start has to. False if there is none."""
        delay_s = None
        has_crashed = self.worker.exit_status != 0  # else it was done: its lease was revoked, or its code ended it
        if has_crashed and self.in_service and self._backoff is not None:
            report = self.worker.report
            delay_s = self._backoff.delay_after_end(
                self._clock(), is_away=isinstance(report, Failed) and report.is_away
            )
        self.is_over = delay_s is None
        counts = (0, 0) if self._backoff is None else (self._backoff.restarts, self._backoff.failed_starts)
        self._observer.lost(self, Loss(self.worker.how_it_ended, self._heard_ready, delay_s, *counts))
        if delay_s is None:
            return False
        try:
            async with asyncio.timeout(delay_s):
                await self._stopping.wait()
        except TimeoutError:
            return self.in_service  # it may be withdrawn meanwhile
        return False

    def _on_change(self) -> None:
        if self.worker.is_ready and not self._heard_ready:
            self._heard_ready = True
            if self._backoff is not None:
                self._backoff.became_ready(self._clock())
            if not self._is_first:
                self._observer.ready_again(self)
        self._observer.changed()

"""An event loop on a virtual clock, whose callbacks belong to hosts.

Time jumps to the next timer when nothing is ready, so an hour takes as long as what happens in it. Every
callback belongs to a host: the one that was current when it was scheduled. Callbacks of one host keep their order,
as asyncio promises; how those of several hosts mix is up to the seed.

What a host leaves behind when it crashes stays as it is until the run is over, and is then closed in a loop where
nothing has an effect: a process that is killed runs no `finally`.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import gc
import inspect
import itertools
import logging
import random
from asyncio.events import Handle, TimerHandle, _set_running_loop
from collections.abc import Callable, Coroutine, Iterator
from contextvars import Context as VarContext
from typing import TYPE_CHECKING, Any, TypeVar, cast

from tests.sim.history import Trace
from tests.sim.host import Host, current_host

from dynamo._core.virtual_clock import START_S, Deadlock, Endless, Livelock, VirtualClockLoop

if TYPE_CHECKING:
    from tests.sim.network import Network, Server
    from tests.sim.pipe import ProtocolFactory

__all__ = ["Deadlock", "Endless", "Livelock", "SimFuture", "SimLoop", "SimTask", "forget_task", "run"]

T = TypeVar("T")

#: A run that is not over by then has no end.
END_S = START_S + 10_000.0
#: A coroutine that goes on awaiting while it is closed is closed so often.
CLOSES_MAX = 100


class SimFuture(asyncio.Future[T]):
    """A future whose hash is its number, so that the order of a set of them is that of every run."""

    def __init__(self, serial: int, loop: asyncio.AbstractEventLoop) -> None:
        self._serial = serial
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._serial


class SimTask(asyncio.Task[T]):
    """A task whose hash is its number."""

    def __init__(
        self,
        serial: int,
        work: Coroutine[Any, Any, T],
        loop: asyncio.AbstractEventLoop,
        context: VarContext | None,
    ) -> None:
        self._serial = serial
        super().__init__(work, loop=loop, name=f"task-{serial}", context=context)

    def __hash__(self) -> int:
        return self._serial


class SimLoop(VirtualClockLoop):
    """asyncio's loop, with a clock and an order of its own."""

    def __init__(self, seed: int | str, *, echo: bool = False) -> None:
        super().__init__(end_s=END_S)
        self.random = random.Random(f"loop {seed}")
        self.trace = Trace(echo=echo)
        #: What nobody caught: errors of callbacks, of tasks that nobody awaits, and faults in the log.
        self.uncaught: list[str] = []
        #: Whether the run has ended: nothing that is scheduled now will happen.
        self.is_over = False
        self._serials = itertools.count(1)
        self.set_task_factory(_new_task)  # type: ignore[arg-type]
        self.set_exception_handler(_note_uncaught)
        from tests.sim.network import Network

        self.network: Network = Network(self)

    def note(self, what: str, who: object = None) -> None:
        """Add a line to the trace."""
        self.trace.add(self._now_s, who or current_host.get() or "-", what)

    # What asyncio asks of a loop.

    def create_future(self) -> asyncio.Future[Any]:
        return SimFuture(next(self._serials), self)

    def _executor_delay_s(self) -> float:
        return self.random.uniform(0.0, 0.01)

    async def create_server(  # type: ignore[override]
        self, factory: ProtocolFactory, host: str, port: int, **options: object
    ) -> Server:
        assert options.get("ssl") is None, "the simulated network has no TLS"
        return self.network.listen(factory, host, port)

    async def create_connection(  # type: ignore[override]
        self, factory: ProtocolFactory, host: str, port: int, **options: object
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        assert options.get("ssl") is None, "the simulated network has no TLS"
        return await self.network.connect(factory, host, port)

    def call_soon(self, callback: Callable[..., object], *args: object, context: VarContext | None = None) -> Handle:
        if self.is_over:
            return _never(self)
        return super().call_soon(callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: object, context: VarContext | None = None
    ) -> TimerHandle:
        if self.is_over:
            return _never(self)
        return super().call_at(when, callback, *args, context=context)

    def make_ready(self, handle: Handle) -> None:
        self._ready.append(handle)

    def new_task(self, work: Coroutine[Any, Any, T], context: VarContext | None) -> SimTask[T]:
        host = context.get(current_host) if context is not None else current_host.get()
        if host is not None and host.wrap is not None:
            work = cast("Coroutine[Any, Any, T]", host.wrap(cast("Coroutine[object, object, object]", work)))
        task = SimTask(next(self._serials), work, self, context)
        if self.is_over:
            work.close()
            forget_task(task)
        elif host is not None:
            host.tasks[cast("asyncio.Task[object]", task)] = None
            task.add_done_callback(cast("Callable[[asyncio.Task[T]], object]", host.tasks.pop))
        return task

    def timers_of(self, host: Host) -> list[Handle]:
        """What is still scheduled on a host."""
        return [handle for handle in self._scheduled if not handle.cancelled() and _host_of(handle) is host]

    def _run_once(self) -> None:
        self._begin_turn()
        ready, self._ready = self._ready, collections.deque()
        for host, handle in self._in_order(ready):
            if handle.cancelled():
                continue
            if host is not None and not host.is_running:
                host.hold(handle)
            else:
                handle._run()

    def _in_order(self, ready: collections.deque[Handle]) -> list[tuple[Host | None, Handle]]:
        """What runs now: the callbacks of each host in their order, those of several hosts mixed at random."""
        if len(ready) == 1:
            return [(_host_of(ready[0]), ready[0])]
        by_host: dict[Host | None, collections.deque[Handle]] = {}
        for handle in ready:
            by_host.setdefault(_host_of(handle), collections.deque()).append(handle)
        queues = list(by_host.items())
        merged: list[tuple[Host | None, Handle]] = []
        while queues:
            index = self.random.randrange(len(queues)) if len(queues) > 1 else 0
            host, queue = queues[index]
            merged.append((host, queue.popleft()))
            if not queue:
                del queues[index]
        return merged


def run(main: Callable[[SimLoop], Coroutine[Any, Any, T]], seed: int | str, *, echo: bool = False) -> T:
    """Run a simulation to its end, and close what is left of it."""
    loop = SimLoop(seed, echo=echo)
    gc_was_enabled = gc.isenabled()
    gc.disable()  # it would end generators at moments that depend on what ran before
    try:
        asyncio.set_event_loop(loop)
        with _logged_to(loop):
            return loop.run_until_complete(main(loop))
    finally:
        try:
            _bury(loop)
        finally:
            asyncio.set_event_loop(None)
            if gc_was_enabled:
                gc.enable()


def forget_task(task: asyncio.Task[Any]) -> None:
    """Have asyncio not complain of a task that will not end."""
    task._log_destroy_pending = False  # type: ignore[attr-defined]


def _bury(loop: SimLoop) -> None:
    """Close every coroutine that has not ended, in a loop where nothing has an effect."""
    loop.is_over = True
    left = asyncio.all_tasks(loop)
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    _set_running_loop(loop)
    try:
        for task in sorted(left, key=hash):
            forget_task(task)
            _close(cast("Coroutine[object, object, object]", task.get_coro()))
        loop._ready.clear()
        loop._scheduled.clear()
        left.clear()
        loop.network.hosts.clear()
    finally:
        _set_running_loop(None)
        logging.disable(before)
    loop.close()


def _close(work: Coroutine[object, object, object]) -> None:
    """Close a coroutine with all that it awaits: from the inside, or one that goes on awaiting would be left behind."""
    for _ in range(CLOSES_MAX):
        innermost = _innermost(work)
        # Whatever its cleanup raises is of no interest: the process that it belonged to is gone.
        with contextlib.suppress(BaseException):
            innermost.close()
            if innermost is work:
                return


def _innermost(work: Coroutine[object, object, object]) -> Coroutine[object, object, object]:
    """Return the coroutine that a coroutine waits for in the end; async generators may be between them."""
    innermost, awaited = work, getattr(work, "cr_await", None)
    while awaited is not None:
        if inspect.iscoroutine(awaited):
            if awaited.cr_frame is None:
                break
            innermost, awaited = awaited, awaited.cr_await
        else:
            generators = [one for one in gc.get_referents(awaited) if inspect.isasyncgen(one)]
            awaited = generators[0].ag_await if generators else None
    return innermost


class _LogToTrace(logging.Handler):
    """Puts what the shipped code logs into the trace. An error with a traceback is a fault of ours."""

    def __init__(self, loop: SimLoop) -> None:
        super().__init__(logging.INFO)
        self._loop = loop

    def emit(self, record: logging.LogRecord) -> None:
        loop = self._loop
        loop.trace.add_unhashed(
            loop.time(), current_host.get() or "-", f"log {record.levelname} {record.name}: {record.getMessage()}"
        )
        if record.exc_info and record.exc_info[1] is not None and record.levelno >= logging.ERROR:
            loop.uncaught.append(f"logged on {current_host.get()}: {record.getMessage()}: {record.exc_info[1]!r}")


@contextlib.contextmanager
def _logged_to(loop: SimLoop) -> Iterator[None]:
    logger, handler = logging.getLogger("dynamo"), _LogToTrace(loop)
    before, logger.propagate = logger.propagate, False
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = before


def _note_uncaught(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    assert isinstance(loop, SimLoop)
    if loop.is_over:
        return
    what = f"{context.get('message')}: {context.get('exception')!r} {context.get('task') or context.get('handle')}"
    loop.uncaught.append(what)
    loop.trace.add_unhashed(loop.time(), current_host.get() or "-", f"uncaught {what}")


def _never(loop: SimLoop) -> TimerHandle:
    handle = TimerHandle(0.0, lambda: None, (), loop)
    handle.cancel()
    return handle


def _host_of(handle: Handle) -> Host | None:
    context: VarContext = handle._context  # type: ignore[attr-defined]
    return context.get(current_host)


def _new_task(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T], *, context: VarContext | None = None
) -> asyncio.Task[T]:
    assert isinstance(loop, SimLoop)
    return loop.new_task(work, context)

"""Threads for handlers that are plain functions."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class HandlerThreads(Executor):
    """Runs calls in at most `count_max` threads, which are made as they are needed.

    The interpreter waits at its exit for the threads of a `ThreadPoolExecutor`, however long they take. A
    handler that blocks must not keep a process alive that was told to stop, so these are daemons.
    """

    def __init__(self, count_max: int) -> None:
        self._count_max = count_max
        self._count = 0
        self._calls: queue.SimpleQueue[tuple[Future[object], Callable[[], object]] | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._closed = False

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the runtime is closed and runs no more handlers")
            self._calls.put((future, partial(function, *args, **kwargs)))  # type: ignore[arg-type]
            if not self._idle.acquire(blocking=False) and self._count < self._count_max:
                self._count += 1
                threading.Thread(target=self._work, name=f"dynamo-handler-{self._count}", daemon=True).start()
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Start no more calls, and none of those that wait. It never waits for those that run."""
        with self._lock:
            self._closed = True
            while not self._calls.empty():
                if (waiting := self._calls.get()) is not None:
                    waiting[0].cancel()
            for _ in range(self._count):
                self._calls.put(None)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            future, function = call
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function())
                except BaseException as error:  # the future is who raises it
                    future.set_exception(error)
            del call, future, function  # what it returned may be large
            self._idle.release()

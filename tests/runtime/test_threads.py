"""Threads for plain functions: as many as needed, never more, and nobody waits for them at the end."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError

import pytest

from dynamo.runtime._threads import HandlerThreads

DEADLINE_S = 60.0


def test_calls_run_side_by_side_up_to_the_limit() -> None:
    threads = HandlerThreads(3)
    together = threading.Barrier(3)
    names = [threads.submit(lambda: (together.wait(DEADLINE_S), threading.current_thread().name)) for _ in range(9)]
    assert len({future.result(DEADLINE_S)[1] for future in names}) == 3
    threads.shutdown()


def test_an_idle_thread_is_used_again() -> None:
    threads = HandlerThreads(8)
    first = threads.submit(threading.get_ident).result(DEADLINE_S)
    assert threads._idle.acquire(timeout=DEADLINE_S)
    threads._idle.release()
    assert threads.submit(threading.get_ident).result(DEADLINE_S) == first
    threads.shutdown()


def test_a_call_that_raises_says_so_and_the_thread_goes_on() -> None:
    threads = HandlerThreads(1)
    with pytest.raises(ZeroDivisionError):
        threads.submit(lambda: 1 // 0).result(DEADLINE_S)
    assert threads.submit(len, "four").result(DEADLINE_S) == 4
    threads.shutdown()


def test_the_end_waits_for_nobody_and_starts_nothing() -> None:
    threads, go_on, begun = HandlerThreads(1), threading.Event(), threading.Event()

    def blocks() -> bool:
        begun.set()
        return go_on.wait(DEADLINE_S)

    running = threads.submit(blocks)
    assert begun.wait(DEADLINE_S)
    waiting = threads.submit(len, "never")
    threads.shutdown()
    threads.shutdown()
    with pytest.raises(CancelledError):
        waiting.result(DEADLINE_S)
    with pytest.raises(RuntimeError, match="closed"):
        threads.submit(len, "too late")
    go_on.set()
    assert running.result(DEADLINE_S)

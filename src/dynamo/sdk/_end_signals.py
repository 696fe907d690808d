"""The signals that ask `dynamo serve` for its end: Ctrl-C, SIGTERM, and the end of its terminal.

They are heard from the first moment that something was started: process 1 of a container has no default
for them, so one that nobody heard would be lost.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def on_end_signals(act: Callable[[], object]) -> Iterator[None]:
    """Within the block each of the signals calls `act`, in the loop that runs."""
    loop = asyncio.get_running_loop()
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup sets it
        numbers.append(signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, act)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def unless_ended(work: Awaitable[T]) -> T | None:
    """Return what `work` returns; None if a signal came first, which cancels it."""
    working = asyncio.ensure_future(work)
    with on_end_signals(working.cancel):
        await asyncio.wait([working])
    return None if working.cancelled() else working.result()

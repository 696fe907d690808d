"""SIGTERM and Ctrl-C: the first asks for an orderly end, the second does not wait for it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from dynamo.runtime._served_endpoint import DRAIN_S

if TYPE_CHECKING:
    from dynamo.runtime._runtime import DistributedRuntime

logger = logging.getLogger(__name__)

#: After a signal, a process that serves has its drain time and this much more to return.
RETURN_GRACE_S = 5.0


@contextmanager
def ending_on_signals(runtime: DistributedRuntime, *, within_s: float | None = None) -> Iterator[None]:
    """Within the block a signal shuts the runtime down.

    The block is then expected to end by itself `within_s` seconds: by default what it takes to drain if
    the runtime serves, and no time if it does not. A block that takes longer has its task cancelled and
    the process ends with the status that a shell expects, without a traceback. A second signal exits at
    once. Outside the main thread nothing happens: only that hears signals.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    heard: list[signal.Signals] = []

    def on_signal(number: signal.Signals) -> None:
        if heard:
            # Nothing is waited for any more, not even what would cancel cleanly.
            logger.warning("a second signal: leaving without draining")
            os._exit(128 + number)
        heard.append(number)
        runtime.shutdown()
        patience_s = within_s if within_s is not None else DRAIN_S if runtime.serves else None
        if patience_s is None:
            task.cancel()
        else:
            cleanup.callback(loop.call_later(patience_s + RETURN_GRACE_S, task.cancel).cancel)

    with ExitStack() as cleanup:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                loop.add_signal_handler(number, on_signal, number)
            except (ValueError, RuntimeError, NotImplementedError):
                continue
            cleanup.callback(loop.remove_signal_handler, number)
        try:
            yield
        except asyncio.CancelledError:
            if not heard:
                raise
            raise SystemExit(128 + heard[0]) from None

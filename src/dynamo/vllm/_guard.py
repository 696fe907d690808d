"""A process of the engine ends with the worker that started it, however that ends.

vLLM's processes go on when the worker is killed: they hold the GPU's memory, and the next worker finds no room. And
Ctrl-C in a terminal reaches all processes in the foreground: the engine would end before the worker has drained.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Collection
from multiprocessing.process import BaseProcess

#: How long the process may take to end in order.
GRACE_S = 5.0

log = logging.getLogger(__name__)


def end_with_parent(*, grace_s: float = GRACE_S) -> None:
    """Have this process end when the one that started it has, and not by the terminal's signals.

    It has `grace_s` seconds to end in order. To be called in a process that `multiprocessing` has started; in another
    one it does nothing.
    """
    if multiprocessing.parent_process() is None:
        return
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    threading.Thread(target=_wait_and_end, args=(grace_s,), name="end with the worker", daemon=True).start()


def kill_children(but: Collection[BaseProcess]) -> None:
    """End the processes that `multiprocessing` has started here, those in `but` excepted.

    Python waits for them when it exits, and an engine that loads a model for nobody takes its time.
    """
    for child in multiprocessing.active_children():
        if child not in but:
            child.kill()


def _wait_and_end(grace_s: float) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    log.error("the worker %d is gone: its engine %d ends", parent.pid, os.getpid())
    # A thread of an interpreter that ends is stopped first of all, so it is the kernel that keeps the time.
    signal.setitimer(signal.ITIMER_REAL, grace_s)
    os.kill(os.getpid(), signal.SIGTERM)

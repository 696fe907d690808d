"""Scheduling what belongs to no host: the network, the servers, the air."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context

from tests.sim.host import current_host
from tests.sim.loop import SimLoop


def outside(loop: SimLoop, at_s: float, callback: Callable[[], object]) -> None:
    """Call `callback` at this time, on no host."""
    context = copy_context()
    context.run(current_host.set, None)
    loop.call_at(at_s, callback, context=context)

"""How much work something is, in lines of Python code: unlike times, the same on every machine, however busy it is."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from _typeshed import TraceFunction

T = TypeVar("T")


def lines_of(step: Callable[[], T]) -> tuple[T, int]:
    """Return what a step returns, and how many lines ran in it. A line takes about 0.1 microseconds."""
    lines = 0

    def trace(_frame: FrameType, event: str, _arg: object) -> TraceFunction:
        nonlocal lines
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        returned = step()
    finally:
        sys.settrace(before)
    return returned, lines

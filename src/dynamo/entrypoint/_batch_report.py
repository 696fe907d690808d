"""The results of a batch: one by one as records, and together as progress and a summary."""

from __future__ import annotations

import asyncio
import math
import sys
from array import array
from collections.abc import Sequence

import msgspec
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TaskID

from dynamo._core.errors import DynamoError

#: Where no bar can be drawn, a line says how far it is, at most so often.
PROGRESS_EVERY_S = 5.0
#: The loop's clock counts milliseconds.
CLOCK_TICK_S = 0.001


class Usage(msgspec.Struct):
    """Counts of tokens; those of zero count, too."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Result(msgspec.Struct):
    """The answer to one line."""

    line: int
    text: str
    finish_reason: str | None
    usage: Usage
    #: From asking to the first chunk of the answer, and to its end.
    ttft_s: float
    latency_s: float


class Fault(msgspec.Struct, omit_defaults=True):
    """Why there is no answer."""

    code: str
    message: str
    param: str | None = None


class Failed(msgspec.Struct):
    """A line that has no answer."""

    line: int
    error: Fault

    @classmethod
    def because(cls, line: int, error: DynamoError) -> Failed:
        """Return the record of a line whose request failed."""
        param = error.details.get("param")
        code = str(error.details.get("code", error.code))
        return cls(line, Fault(code, f"line {line}: {error}", None if param is None else str(param)))


class Report:
    """Counts what becomes of the lines; inside the `with` block it shows how far they are, on stderr."""

    def __init__(self, total: int) -> None:
        self.num_failed = 0
        self._total = total
        self._num_done = 0
        self._num_tokens = 0
        self._ttfts_s = array("d")
        self._now = asyncio.get_running_loop().time
        self._started = self._now()
        self._said_at = self._started
        self._bar: Progress | None = None
        self._bar_task = TaskID(0)

    def __enter__(self) -> Report:
        if sys.stderr.isatty():
            console = Console(stderr=True)
            self._bar = Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console)
            self._bar_task = self._bar.add_task("requests", total=self._total)
            self._bar.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def add(self, outcome: Result | Failed) -> None:
        """Count an outcome."""
        self._num_done += 1
        if isinstance(outcome, Failed):
            self.num_failed += 1
        else:
            self._num_tokens += outcome.usage.completion_tokens
            self._ttfts_s.append(outcome.ttft_s)
        if self._bar is not None:
            self._bar.update(self._bar_task, completed=self._num_done)
        elif self._now() - self._said_at >= PROGRESS_EVERY_S:
            self._said_at = self._now()
            print(f"{self._num_done} of {self._total} requests, {self.num_failed} failed", file=sys.stderr, flush=True)

    def summary(self) -> str:
        """Say in one line what has become of them until now."""
        elapsed_s = max(self._now() - self._started, CLOCK_TICK_S)
        done = f"{self._num_done} of {self._total}" if self._num_done < self._total else f"{self._total}"
        line = f"{done} requests in {elapsed_s:.3f} s, {self.num_failed} failed: "
        line += f"{self._num_tokens} tokens, {self._num_tokens / elapsed_s:.1f} tokens/s"
        if self._ttfts_s:
            in_order = sorted(self._ttfts_s)
            line += f"; ttft p50 {_quantile(in_order, 0.5):.3f} s, p99 {_quantile(in_order, 0.99):.3f} s"
        return line


def _quantile(in_order: Sequence[float], share: float) -> float:
    """Return the smallest of the values that at least this share of them does not exceed."""
    return in_order[max(0, math.ceil(share * len(in_order)) - 1)]

"""What `dynamo replay` does: it reads the trace, replays it, shows how far it is, and prints and writes the report."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TaskID
from rich.table import Table

from dynamo._core.errors import ConfigError, DynamoError
from dynamo._core.exit_status import FAILED, INTERRUPTED, OK, USAGE
from dynamo.llm import KvRouterConfig
from dynamo.replay import Replay, ReplayConfig, Report, TracedRequest, read_policies, read_trace, synthetic_trace
from dynamo.replay._page import COLUMNS, Column, about, best_of, milliseconds, write_report
from dynamo.runtime._process import failed, settle
from dynamo.runtime._system import PORT_VARIABLE

#: Where no bar can be drawn, a line says how far it is, at most so often.
PROGRESS_EVERY_S = 5.0
BAR_WIDTH = 40
#: Waiting is one table, and everything else another, so that each fits a terminal.
_WAITING = COLUMNS[:6]
_REST = COLUMNS[6:]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the command line says besides the cluster."""

    traces: Sequence[Path]
    synthetic: str | None
    num_requests: int
    policies: Sequence[str]
    kv_router_config: str | None
    trace_block_size: int
    reports: Sequence[Path]


def run_replay(wanted: Wanted, config: ReplayConfig) -> int:
    """Replay, and return the exit status."""
    # Nobody watches this process, and nothing of it listens.
    os.environ[PORT_VARIABLE] = "-1"
    try:
        _check(wanted)
        requests = _requests(wanted, config.seed)
        kv_config = None if wanted.kv_router_config is None else KvRouterConfig.from_json(wanted.kv_router_config)
        policies = read_policies([name.strip() for name in wanted.policies], kv_config)
        replay = Replay(requests, policies, config)
        settle()
        status = OK
        try:
            with _Shown(len(requests)) as shown:
                report = replay.run(shown.update)
        except KeyboardInterrupt:
            report, status = replay.report(), INTERRUPTED
        _print(report)
        for path in wanted.reports:
            write_report(report, path)
            print(f"report: {path}")
        if status == OK:
            _check_failures(report)
    except ConfigError as error:
        return failed(error, USAGE)
    except DynamoError as error:
        return failed(error, FAILED)
    return status


def _check(wanted: Wanted) -> None:
    if bool(wanted.traces) == (wanted.synthetic is not None):
        raise ConfigError("give either the files of a trace, or --synthetic and the name of one that is made up")
    for path in wanted.reports:
        if path.suffix not in (".html", ".json"):
            raise ConfigError(f"--report {path}: a report is a FILE.html or a FILE.json")
        if not path.parent.is_dir():
            raise ConfigError(f"--report {path}: there is no directory {path.parent}; make it first")


def _check_failures(report: Report) -> None:
    """Raise `DynamoError` if requests failed: the figures of those policies are of what was left."""
    failures = [
        f"{one.num_failed} of {one.num_requests} with {one.policy} ({', '.join(sorted(one.errors))})"
        for one in report.policies
        if one.num_failed
    ]
    if failures:
        raise DynamoError(f"requests failed, and the other figures are without them: {', '.join(failures)}")


def _requests(wanted: Wanted, seed: int) -> list[TracedRequest]:
    if wanted.synthetic is not None:
        return synthetic_trace(wanted.synthetic, wanted.num_requests, seed)
    return read_trace(wanted.traces, block_size=wanted.trace_block_size)


class _Shown:
    """Shows on stderr how far the replay is, inside the `with` block."""

    def __init__(self, num_requests: int) -> None:
        self._num_requests = num_requests
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._said_at = time.monotonic()

    def __enter__(self) -> _Shown:
        if sys.stderr.isatty():
            console = Console(stderr=True)
            self._bar = Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console)
            self._bar.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, policy: str, count: int) -> None:
        """So many requests have ended with a policy."""
        if self._bar is not None:
            if policy not in self._tasks:
                self._tasks[policy] = self._bar.add_task(policy, total=self._num_requests)
            self._bar.update(self._tasks[policy], completed=count)
        elif time.monotonic() - self._said_at >= PROGRESS_EVERY_S:
            self._said_at = time.monotonic()
            print(f"{policy}: {count} of {self._num_requests} requests", file=sys.stderr, flush=True)


def _print(report: Report) -> None:
    console = Console(highlight=False)
    for line in about(report):
        console.print(line)
    if not report.policies:
        return
    for columns in (_WAITING, _REST):
        console.print()
        console.print(_table(report, columns))
    console.print("\nTTFT mean")
    longest = max(one.ttft_s.mean for one in report.policies)
    width = max(len(one.policy) for one in report.policies)
    for one in report.policies:
        mean = one.ttft_s.mean
        bar = "█" * max(1, round(BAR_WIDTH * mean / longest)) if mean == mean and longest else ""
        console.print(f"{one.policy:{width}} {bar} {milliseconds(mean)}", markup=False)


def _table(report: Report, columns: Sequence[Column]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("policy")
    for column in columns:
        table.add_column(column.heading, justify="right", no_wrap=True)
    best = [best_of(column, report.policies) for column in columns]
    for one in report.policies:
        shown = [column.shown(column.value(one)) for column in columns]
        cells = [f"[bold]{cell}[/]" if cell == most else cell for cell, most in zip(shown, best, strict=True)]
        table.add_row(one.policy, *cells)
    return table

"""Several processes behind one scrape: what `PROMETHEUS_MULTIPROC_DIR` makes of metrics.

With that variable every process writes its numbers to files in one directory, and whichever is asked answers for all
of them. Counters and histograms are sums, of processes that have ended, too. What only one process knows is told with
its `pid`, so that answers of different processes are different series.
"""

from __future__ import annotations

import os
import re
from copy import copy
from pathlib import Path

from prometheus_client import values
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from dynamo._core.errors import ConfigError
from dynamo.metrics._scope import ATTACHED_LABELS

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"

_LIVE_GAUGES = re.compile(r"gauge_live[a-z]*_(\d+)\.db")


def is_shared() -> bool:
    """Whether several processes are scraped as one; `prometheus_client` decides that when it is imported."""
    return values.ValueClass is not values.MutexValue


def check_directory() -> None:
    """Raise `ConfigError` if there is to be a directory and is none; the first number would find that out too late."""
    if is_shared() and not _directory().is_dir():
        raise ConfigError(
            f"{VARIABLE}={str(_directory())!r} is not a directory: make it, empty, before the first process starts",
            setting=VARIABLE,
        )


def collect_all_processes() -> list[Metric]:
    """Return our metrics as all processes together have them."""
    forget_dead_gauges()
    # One without a byte is of a process that has just begun to write, or was killed then: none can be read with it.
    files = [str(file) for file in _directory().glob("*.db") if _size(file)]
    metrics: list[Metric] = list(MultiProcessCollector.merge(files))  # type: ignore[no-untyped-call]
    # Other libraries write to the same files; theirs are told of by whoever knows them.
    return [metric for metric in metrics if all(ATTACHED_LABELS[0] in sample.labels for sample in metric.samples)]


def forget_dead_gauges() -> None:
    """Remove the gauges of processes that are gone: nobody else does when one was killed."""
    matches = map(_LIVE_GAUGES.fullmatch, os.listdir(_directory()))
    for pid in {int(match[1]) for match in matches if match}:
        if not _is_alive(pid):
            mark_process_dead(pid)  # type: ignore[no-untyped-call]


def with_pid(metric: Metric) -> Metric:
    """Return the metric as one that only this process knows."""
    pid = own_pid()
    metric = copy(metric)
    metric.samples = [sample._replace(labels=pid | sample.labels) for sample in metric.samples]
    return metric


def own_pid() -> dict[str, str]:
    """The label of what only this process knows."""
    return {"pid": str(os.getpid())}


def _directory() -> Path:
    return Path(os.environ[VARIABLE])


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # its process has ended meanwhile
        return 0


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

"""metrics: an increment with Dynamo's labels attached, beside one of `prometheus_client` with the same labels.

Both are called in turn in one thread, in short batches, and the times are CPU times of that thread: what else runs on
the machine then hardly matters. `bound` is a metric whose label values are given already, `unbound` gives them with
each increment; `a scope` takes the attached labels from whichever scope is current, as in a handler, and `an endpoint`
from the endpoint that the metric was made for.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence

from benchmarks.children import stage
from benchmarks.report import Column, Measurement, Results
from benchmarks.systems import System

COLUMNS = (Column("call_ns", "CPU ns/call", ratio=True),)
RATIO_HEADING = "ours/this"
OURS, THEIRS = "ours", "prometheus_client"
#: What an increment of ours may cost, as a multiple of theirs.
RATIO_MAX = 1.5
_START_S = 60.0
_CELLS_MAX = 16


async def measure(systems: Sequence[System], options: argparse.Namespace, say: Callable[[str], None]) -> Results:
    """Run the probe `options.runs` times; it measures both."""
    results = Results()
    for run in range(options.runs):
        say(f"run {run + 1} of {options.runs}")
        async with stage(systems[0]) as processes:
            deadline_s = _START_S + _CELLS_MAX * options.window_s
            found = await processes.measure(
                "benchmarks.metrics_probe", "--window-s", str(options.window_s), deadline_s=deadline_s
            )
        for workload, times_ns in found.items():
            for name in (OURS, THEIRS):
                figures = {"call_ns": times_ns[name]}
                results.measurements.append(Measurement(name, run, workload, 1, figures))
    results.remarks = _verdict(results)
    return results


def _verdict(results: Results) -> str:
    """Say whether increments cost no more than they may."""
    worst, where = max((_ratio(results, workload), workload) for workload in _increments(results))
    verdict = "met" if worst <= RATIO_MAX else "missed"
    return f"An increment costs at most {worst:.2f} times theirs ({where}); target {RATIO_MAX:g}: {verdict}."


def _increments(results: Results) -> list[str]:
    names = dict.fromkeys(one.workload for one in results.measurements)
    return [name for name in names if name.startswith("counter")]


def _ratio(results: Results, workload: str) -> float:
    ours, theirs = (
        statistics.median(
            one.figures["call_ns"] for one in results.measurements if (one.system, one.workload) == (system, workload)
        )
        for system in (OURS, THEIRS)
    )
    return ours / theirs

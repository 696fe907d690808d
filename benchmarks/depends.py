"""depends: what a call through `depends` costs, beside a call of a bare client.

Two processes, each with one service of a graph. The caller measures in turn, in one process and against
the same worker: through `depends`, and with a client that does by hand what the annotations of an endpoint
ask for. The ratio is the time per call through `depends` over that of the bare client.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from benchmarks.children import stage
from benchmarks.depends_services import BARE, DEPENDS, WORKLOADS
from benchmarks.report import Column, Measurement, Results
from benchmarks.systems import System

CONCURRENCIES = (1, 64)
COLUMNS = (
    Column("us_per_call", "us/call", ratio=True),
    Column("caller_cpu_us_per_call", "caller CPU us/call", ratio=True),
)
RATIO_HEADING = "depends/this"
_GRACE_S = 60.0


@dataclass(frozen=True)
class PlannedCell:
    """One row of the table."""

    workload: str
    concurrency: int
    way: str


async def measure(systems: Sequence[System], options: argparse.Namespace, say: Callable[[str], None]) -> Results:
    """Measure the two ways in turn, cell by cell, `options.runs` times."""
    plan = [
        PlannedCell(workload, concurrency, way)
        for workload in WORKLOADS
        for concurrency in options.concurrency or CONCURRENCIES
        for way in (DEPENDS, BARE)
    ]
    results = Results()
    for run in range(options.runs):
        say(f"run {run + 1} of {options.runs}: {len(plan)} cells of {options.window_s:g} s")
        for cell, figures in zip(plan, await _run(systems[0], plan, options.window_s), strict=True):
            results.measurements.append(Measurement(cell.way, run, cell.workload, cell.concurrency, figures))
    return results


async def _run(system: System, plan: Sequence[PlannedCell], window_s: float) -> list[dict[str, float]]:
    async with stage(system) as processes:
        await processes.start("benchmarks.depends_process")
        figures: list[dict[str, float]] = await processes.measure(
            "benchmarks.depends_process",
            "--window-s", str(window_s),
            "--plan", json.dumps([asdict(cell) for cell in plan]),
            deadline_s=len(plan) * (4 * window_s + 1) + _GRACE_S,
        )  # fmt: skip
        return figures

"""route: a decision of the KV router, from the tokens of a prompt to the instance that it goes to.

64 workers, an index of a million blocks of which 16 workers hold the beginning of each prompt, and 512 requests that
run meanwhile. The times are CPU times of the one thread in which all of it happens: hashing the tokens, finding who
has them cached, weighing all workers, and booking the request. `end` is what it costs to take the booking back.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from benchmarks.children import stage
from benchmarks.report import Column, Measurement, Results
from benchmarks.systems import System

COLUMNS = (Column("p50_us", "p50, CPU us"), Column("p99_us", "p99, CPU us"), Column("end_us", "end, CPU us"))
RATIO_HEADING = "ours/this"
_BLOCKS = 1_000_000
_QUICK_BLOCKS = 20_000
_START_S = 180.0
_CELLS_MAX = 8


async def measure(systems: Sequence[System], options: argparse.Namespace, say: Callable[[str], None]) -> Results:
    """Run it `options.runs` times, each in a fresh process."""
    blocks = _QUICK_BLOCKS if options.quick else _BLOCKS
    results = Results()
    for run in range(options.runs):
        for system in systems:
            say(f"run {run + 1} of {options.runs}, {system.name}")
            async with stage(system) as processes:
                found: dict[str, dict[str, float]] = await processes.measure(
                    "benchmarks.route_probe",
                    "--blocks", str(blocks), "--window-s", str(options.window_s),
                    deadline_s=_START_S + _CELLS_MAX * options.window_s,
                )  # fmt: skip
            for workload, figures in found.items():
                results.measurements.append(Measurement(system.name, run, workload, 1, figures))
    return results

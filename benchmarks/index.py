"""index: which worker holds which prefix, asked and told a million times.

Each system runs in a process of its own, on the same conversations of random blocks: 64 workers; a conversation is
one to 33 events of 100 to 168 blocks, each behind the one before. In `shared` every conversation is held by 16
workers, in `little` by one or two, in `decode` by one that stores block by block. The peer's index is its published
`RadixTree`, which takes events as JSON. Ours takes the numbers themselves; `from JSON` adds what reading the same
JSON costs. Memory is what the process has more with the index than without, divided by unique blocks.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from benchmarks.children import stage
from benchmarks.index_workload import WORKLOADS
from benchmarks.report import Column, Measurement, Results
from benchmarks.systems import System

COLUMNS = (Column("value", "median", ratio=True),)
RATIO_HEADING = "ours/this"
_BLOCKS = 1_000_000
_QUICK_BLOCKS = 20_000
_DEADLINE_S = 600.0


async def measure(systems: Sequence[System], options: argparse.Namespace, say: Callable[[str], None]) -> Results:
    """Run every system in turn, each workload in a fresh process, `options.runs` times."""
    blocks = _QUICK_BLOCKS if options.quick else _BLOCKS
    results = Results()
    for run in range(options.runs):
        for workload in WORKLOADS:
            for system in systems:
                say(f"run {run + 1} of {options.runs}, {system.name}: {workload}, {blocks:,} blocks")
                async with stage(system) as processes:
                    figures: dict[str, float] = await processes.measure(
                        "benchmarks.index_probe",
                        "--system", system.name, "--workload", workload, "--blocks", str(blocks),
                        deadline_s=_DEADLINE_S,
                    )  # fmt: skip
                for name, value in figures.items():
                    measured = Measurement(system.name, run, f"{workload}: {name}", 1, {"value": value})
                    results.measurements.append(measured)
    return results

"""hash: `compute_block_hash_for_seq` of prompts that come as lists and as arrays.

Both systems hash the same tokens in blocks of 16, one process at a time, and must return the same hashes. What only
ours has, the chaining of block hashes and the hashing of generated tokens, is measured without comparison. The times
are CPU times of the calling thread, in which all of it happens: other processes on the machine then hardly matter.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from benchmarks.children import BenchmarkFailed, stage
from benchmarks.report import Column, Measurement, Results
from benchmarks.systems import System

COLUMNS = (Column("mtok_per_s", "M tokens/CPU s", ratio=True), Column("call_us", "CPU us/call"))
RATIO_HEADING = "ours/this"
_START_S = 60.0
_CELLS_MAX = 8


async def measure(systems: Sequence[System], options: argparse.Namespace, say: Callable[[str], None]) -> Results:
    """Run every system in turn, `options.runs` times."""
    results = Results()
    checksums: dict[str, float] = {}
    for run in range(options.runs):
        for system in systems:
            say(f"run {run + 1} of {options.runs}, {system.name}")
            for workload, figures in (await _run(system, options.window_s)).items():
                checksum = figures.pop("checksum", None)
                if checksum is not None and checksums.setdefault(workload, checksum) != checksum:
                    raise BenchmarkFailed(f"{system.name}: {workload}: other hashes than in the runs before")
                results.measurements.append(Measurement(system.name, run, workload, 1, figures))
    return results


async def _run(system: System, window_s: float) -> dict[str, dict[str, float]]:
    modules = ["benchmarks.hash_probe", *(["benchmarks.sequence_probe"] if system.name == "ours" else [])]
    found: dict[str, dict[str, float]] = {}
    async with stage(system) as processes:
        for module in modules:
            deadline_s = _START_S + _CELLS_MAX * window_s
            found |= await processes.measure(module, "--window-s", str(window_s), deadline_s=deadline_s)
    return found

"""startup: what it costs to import, to start, to join, and to be there without doing anything."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import machine
from benchmarks.chat import start_frontend, start_worker, tiny_model
from benchmarks.children import Child, stage
from benchmarks.report import Column, Measurement, Results
from benchmarks.systems import System

COLUMNS = (Column("value", "median", ratio=True),)
RATIO_HEADING = "ours/this"
_REPEATS = 5
_DEADLINE_S = 90.0
_SETTLE_S = 1.0


async def measure(systems: Sequence[System], options: argparse.Namespace, say: Callable[[str], None]) -> Results:
    """Run every system in turn, `options.runs` times; short things `_REPEATS` times in each run."""
    model = tiny_model(say)
    repeats = 1 if options.quick else _REPEATS
    results = Results()
    for run in range(options.runs):
        for system in systems:
            say(f"run {run + 1} of {options.runs}, {system.name}")
            for _ in range(repeats):
                for name, value in (await _short(system)).items():
                    results.measurements.append(Measurement(system.name, run, name, 1, {"value": value}))
            for name, value in (await _pair(system, model, options.window_s)).items():
                results.measurements.append(Measurement(system.name, run, name, 1, {"value": value}))
    return results


async def _short(system: System) -> dict[str, float]:
    """Import in a fresh interpreter; and let a worker join."""
    async with stage(system) as processes:
        imported = await processes.measure("benchmarks.import_probe", deadline_s=_DEADLINE_S)
        joined = await processes.measure("benchmarks.join_probe", deadline_s=_DEADLINE_S)
    return {
        "import dynamo.runtime, ms": imported["import_ms"],
        "import dynamo.runtime, RSS MB": imported["rss_mb"],
        "worker joins: process start to first answer, ms": joined["start_ms"],
        "worker joins: serve to first answer, ms": joined["serve_ms"],
    }


async def _pair(system: System, model: Path, idle_s: float) -> dict[str, float]:
    """Start a frontend and a worker together, wait for their first answer, and watch them idle."""
    async with stage(system) as processes:
        began = time.monotonic()
        frontend, port = await start_frontend(processes)
        worker = await start_worker(processes, model)
        load = await processes.measure(
            "benchmarks.chat_load",
            "--port", str(port), "--model", str(model), "--known-text",
            "--frontend-pid", str(frontend.pid), "--worker-pid", str(worker.pid),
            python=sys.executable,
            deadline_s=_DEADLINE_S,
        )  # fmt: skip
        await asyncio.sleep(_SETTLE_S)
        idle = {**await _idle("frontend", frontend, idle_s), **await _idle("worker", worker, idle_s)}
        return {"frontend + worker: start to first answer, ms": (load["ready_at_s"] - began) * 1e3} | idle


async def _idle(name: str, child: Child, idle_s: float) -> dict[str, float]:
    before_s = machine.cpu_s(child.pid)
    await asyncio.sleep(idle_s)
    return {
        f"idle {name}: RSS MB": machine.rss_mb(child.pid),
        f"idle {name}: PSS MB": machine.pss_mb(child.pid),
        f"idle {name}: threads": float(machine.threads(child.pid)),
        f"idle {name}: % of a core": (machine.cpu_s(child.pid) - before_s) / idle_s * 100,
    }

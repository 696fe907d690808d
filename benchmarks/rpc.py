"""rpc: calls and streams between two Python processes over the request plane.

One process serves, one calls, both on one machine and each with its own event loop: that is how a
frontend and a worker, or two services of a graph, talk. The calling process is the load generator, and
its share of a core is shown, since either end may be the one that limits.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from benchmarks.children import stage
from benchmarks.report import Column, Measurement, Results
from benchmarks.rpc_items import STREAM_ITEMS
from benchmarks.systems import System

#: Workloads: how many items a response has, and whether the handler gives the loop a turn after each.
WORKLOADS = {"unary": (1, False), f"stream {STREAM_ITEMS}": (STREAM_ITEMS, False), "with turns": (STREAM_ITEMS, True)}
CONCURRENCIES = (1, 16, 64, 256)
COLUMNS = (
    Column("items_per_s", "items/s", ratio=True),
    Column("first_item_p50_ms", "first p50 ms", ratio=True),
    Column("first_item_p99_ms", "first p99 ms"),
    Column("server_us_per_item", "server us/item"),
    Column("client_us_per_item", "client us/item"),
    Column("client_cores", "load gen. cores"),
)
RATIO_HEADING = "ours/this"
_GRACE_S = 60.0


@dataclass(frozen=True)
class Cell:
    """One row of the table."""

    workload: str
    concurrency: int
    items: int
    pauses: bool


async def measure(systems: Sequence[System], options: argparse.Namespace, say: Callable[[str], None]) -> Results:
    """Run every system in turn, `options.runs` times."""
    plan = [Cell(name, c, *WORKLOADS[name]) for name in WORKLOADS for c in options.concurrency or CONCURRENCIES]
    results = Results()
    for run in range(options.runs):
        for system in systems:
            say(f"run {run + 1} of {options.runs}, {system.name}: {len(plan)} cells of {options.window_s:g} s")
            reports = await _run(system, plan, options.window_s)
            for cell, figures in zip(plan, reports, strict=True):
                results.measurements.append(Measurement(system.name, run, cell.workload, cell.concurrency, figures))
    return results


async def _run(system: System, plan: Sequence[Cell], window_s: float) -> list[dict[str, float]]:
    async with stage(system) as processes:
        server = await processes.start("benchmarks.rpc_server")
        reports: list[dict[str, float]] = await processes.measure(
            "benchmarks.rpc_client",
            "--server-pid", str(server.pid),
            "--window-s", str(window_s),
            "--plan", json.dumps([asdict(cell) for cell in plan]),
            deadline_s=len(plan) * (4 * window_s + 2) + _GRACE_S,
        )  # fmt: skip
        return reports

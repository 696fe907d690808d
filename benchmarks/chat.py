"""http: streamed chat completions through the frontend and one worker, each a process of its own.

The worker is the same Python file on both systems and yields one token at a time. The peer is measured a
second time with its own simulated engine, whose worker side is not Python: that row shows what its
frontend can do.
"""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.chat_request import ENDPOINT, MODEL_NAME
from benchmarks.children import BenchmarkFailed, Child, Stage, stage
from benchmarks.report import Column, Measurement, Results
from benchmarks.systems import ROOT, System

CONCURRENCIES = (1, 16, 64)
COLUMNS = (
    Column("tokens_per_s", "tokens/s", ratio=True),
    Column("ttft_p50_ms", "TTFT p50 ms", ratio=True),
    Column("ttft_p99_ms", "TTFT p99 ms"),
    Column("request_p99_ms", "request p99 ms"),
    Column("frontend_us_per_token", "frontend us/token"),
    Column("worker_us_per_token", "worker us/token"),
    Column("load_cores", "load gen. cores"),
)
RATIO_HEADING = "ours/this"
WORKLOAD = "chat stream"
_MODEL = ROOT / ".cache" / "bench-model"
_MAKE_MODEL = ROOT / "examples" / "llm" / "make_tiny_model.py"
_MAKE_MODEL_S = 300.0
_GRACE_S = 120.0


@dataclass(frozen=True)
class Row:
    """One frontend and one worker."""

    name: str
    system: System
    simulated: bool = False


async def measure(systems: Sequence[System], options: argparse.Namespace, say: Callable[[str], None]) -> Results:
    """Run every system in turn, `options.runs` times."""
    model = tiny_model(say)
    concurrency = options.concurrency or CONCURRENCIES
    rows = [Row(system.name, system) for system in systems]
    rows += [Row("peer, simulated engine", system, simulated=True) for system in systems if system.name == "peer"]
    results = Results()
    for run in range(options.runs):
        for row in rows:
            say(f"run {run + 1} of {options.runs}, {row.name}: {len(concurrency)} cells of {options.window_s:g} s")
            reports = await _run(row, model, concurrency, options.window_s)
            for c, figures in zip(concurrency, reports, strict=True):
                results.measurements.append(Measurement(row.name, run, WORKLOAD, c, figures))
    return results


def tiny_model(say: Callable[[str], None]) -> Path:
    """Return a directory with a tokenizer and a chat template, made once."""
    if not (_MODEL / "tokenizer.json").exists():
        say(f"making a tiny model in {_MODEL} (once)")
        command = [sys.executable, str(_MAKE_MODEL), str(_MODEL)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_MAKE_MODEL_S, check=False)
        if done.returncode:
            raise BenchmarkFailed(f"`{' '.join(command)}` failed:\n{done.stderr}")
    return _MODEL


async def start_frontend(processes: Stage) -> tuple[Child, int]:
    """Start a frontend on a free port; return it and the port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    frontend = await processes.start("dynamo.frontend", "--http-host", "127.0.0.1", "--http-port", str(port))
    return frontend, port


async def start_worker(processes: Stage, model: Path, *, simulated: bool = False) -> Child:
    """Start the Python worker, or the peer's own simulated engine, as fast as it goes."""
    if not simulated:
        return await processes.start("benchmarks.chat_worker", "--model", str(model))
    # A ratio of 0 is said to mean no delay at all, but leaves 6 ms per token.
    return await processes.start(
        "dynamo.mocker", "--model-path", str(model), "--model-name", MODEL_NAME,
        "--endpoint", f"dyn://{ENDPOINT}", "--speedup-ratio", "1000000",
    )  # fmt: skip


async def _run(row: Row, model: Path, concurrency: Sequence[int], window_s: float) -> list[dict[str, float]]:
    async with stage(row.system) as processes:
        frontend, port = await start_frontend(processes)
        worker = await start_worker(processes, model, simulated=row.simulated)
        report = await processes.measure(
            "benchmarks.chat_load",
            "--port", str(port), "--model", str(model), "--window-s", str(window_s),
            "--frontend-pid", str(frontend.pid), "--worker-pid", str(worker.pid),
            "--concurrency", *map(str, concurrency), *([] if row.simulated else ["--known-text"]),
            python=sys.executable,
            deadline_s=len(concurrency) * (4 * window_s + 5) + _GRACE_S,
        )  # fmt: skip
        cells: list[dict[str, float]] = report["cells"]
        return cells

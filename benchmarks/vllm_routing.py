"""vllm: conversations with two real vLLM workers on this machine's CPU, routed by their KV caches and in turn.

Both policies have the same workers, started once, and each run new conversations: a long system prompt of its own, and
turns that go on from the one before. All conversations fit into the caches of both workers together, and not into
that of one. `exact` is how many requests found as many cached tokens as the router had expected; in turn, nothing is.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.children import BenchmarkFailed, Child, Stage, stage
from benchmarks.report import Column, Measurement, Results
from benchmarks.systems import ROOT, System
from benchmarks.vllm_load import Turn, converse

COLUMNS = (
    Column("hit_percent", "hits, %"),
    Column("ttft_mean_ms", "TTFT mean, ms", ratio=True),
    Column("ttft_p50_ms", "TTFT p50, ms", ratio=True),
    Column("ttft_p50_again_ms", "p50 from turn 2 on, ms", ratio=True),
    Column("exact_percent", "exact, %"),
)
RATIO_HEADING = "kv/this"
POLICIES = ("kv", "round-robin")
NUM_WORKERS = 2
#: Blocks of each worker: enough for the half of the conversations, and a little more.
NUM_BLOCKS = 400
_BLOCK_SIZE = 32
_PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
_MODEL = ROOT / ".cache" / "bench-vllm-model"
#: Six million parameters, so that computing a prompt takes longer than what is around it.
_MODEL_SIZE = ("--layers", "6", "--hidden", "256", "--heads", "4", "--kv-heads", "2")
_MAKE_MODEL_S = 300.0
_START_S = 300.0
_POLL_S = 0.2
_FRUGAL = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


@dataclass(frozen=True)
class Conversations:
    """So many at a time, each of so many turns."""

    num: int
    num_turns: int
    num_system_tokens: int = 1500
    num_user_tokens: int = 100


_FULL = Conversations(num=8, num_turns=5)
_QUICK = Conversations(num=2, num_turns=2)


class _WithVllm(System):
    """Our system, with the Python that has vLLM; each engine has one core and one GB."""

    def environment(self, meeting_place: Path) -> dict[str, str]:
        return super().environment(meeting_place) | _FRUGAL | {"PYTHONPATH": str(ROOT / "src")}


async def measure(systems: Sequence[System], options: argparse.Namespace, say: Callable[[str], None]) -> Results:
    """Hold the conversations with each policy in turn, `options.runs` times."""
    if not _PYTHON.exists():
        raise BenchmarkFailed(f"there is no vLLM in {_PYTHON.parents[1]}: `scripts/test-vllm --install` makes it")
    model = _model(say)
    shape = _QUICK if options.quick else _FULL
    results = Results()
    async with stage(_WithVllm("ours", str(_PYTHON), systems[0].version)) as processes:
        say(f"starting {NUM_WORKERS} vLLM workers")
        workers = [await _start_worker(processes, model) for _ in range(NUM_WORKERS)]
        for run in range(options.runs):
            for policy in POLICIES if run % 2 == 0 else reversed(POLICIES):
                frontend, url = await _start_frontend(processes, policy, workers)
                say(f"run {run + 1} of {options.runs}, {policy}: {shape.num} conversations of {shape.num_turns} turns")
                turns = await asyncio.to_thread(
                    converse, url, shape.num, shape.num_turns, shape.num_system_tokens, shape.num_user_tokens
                )
                for child in (*workers, frontend):
                    child.check_alive()
                await frontend.stop()
                figures = _figures(turns)
                results.measurements.append(Measurement(policy, run, "conversations", shape.num, figures))
    return results


def _figures(turns: Sequence[Turn]) -> dict[str, float]:
    ttfts = [1000 * turn.ttft_s for turn in turns]
    return {
        "hit_percent": 100 * sum(turn.num_cached for turn in turns) / sum(turn.num_tokens for turn in turns),
        "ttft_mean_ms": statistics.mean(ttfts),
        "ttft_p50_ms": statistics.median(ttfts),
        "ttft_p50_again_ms": statistics.median(1000 * turn.ttft_s for turn in turns if turn.number),
        "exact_percent": 100 * statistics.mean(turn.num_cached == turn.num_expected for turn in turns),
    }


async def _start_worker(processes: Stage, model: Path) -> Child:
    return await processes.start(
        "dynamo.vllm", "--model-path", str(model), "--dtype", "float32", "--block-size", str(_BLOCK_SIZE),
        "--num-gpu-blocks-override", str(NUM_BLOCKS), "--max-num-seqs", "8", "--enforce-eager",
    )  # fmt: skip


async def _start_frontend(processes: Stage, policy: str, workers: Sequence[Child]) -> tuple[Child, str]:
    """Return it and its URL once it knows all workers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    frontend = await processes.start(
        "dynamo.frontend", "--http-host", "127.0.0.1", "--http-port", str(port), "--router-mode", policy
    )
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + _START_S
    while await asyncio.to_thread(_num_workers, url) < len(workers):
        for child in (*workers, frontend):
            child.check_alive()
        if time.monotonic() > deadline:
            raise BenchmarkFailed(f"not all workers are there after {_START_S:.0f} s{workers[0].output()}")
        await asyncio.sleep(_POLL_S)
    return frontend, url


def _num_workers(url: str) -> int:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=_START_S) as answer:
            return sum(map(len, json.load(answer)["instances"].values()))
    except urllib.error.URLError:
        return 0


def _model(say: Callable[[str], None]) -> Path:
    """Return a model of a few million parameters, made once."""
    if not (_MODEL / "tokenizer.json").exists():
        say(f"making a model in {_MODEL} (once)")
        command = [sys.executable, str(ROOT / "examples" / "llm" / "make_tiny_model.py"), str(_MODEL), *_MODEL_SIZE]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_MAKE_MODEL_S, check=False)
        if done.returncode:
            raise BenchmarkFailed(f"`{' '.join(command)}` failed:\n{done.stderr}")
    return _MODEL

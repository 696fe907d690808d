"""replay: what KV-aware routing gives, on traces with the statistics of published ones, and where nothing repeats.

Eight simulated workers serve each trace with one policy after the other, as fast as round robin can just about bear.
The clock is virtual, so the figures do not depend on the machine; each run is another seed. `kv, long prompts` is the
KV router with options for prompts that are much longer than answers.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Sequence

from benchmarks.report import Column, Measurement, Results
from benchmarks.systems import System
from dynamo.llm import KvRouterConfig
from dynamo.replay import Figures, Replay, ReplayConfig, read_policies, synthetic_trace
from dynamo.runtime._process import settle

COLUMNS = (
    Column("ttft_mean_ms", "TTFT mean, ms", ratio=True),
    Column("ttft_p99_ms", "p99"),
    Column("itl_mean_ms", "ITL mean, ms"),
    Column("itl_p99_ms", "p99"),
    Column("latency_p99_s", "latency p99, s"),
    Column("hit_percent", "hits, %"),
    Column("load_max_over_mean", "load, max/mean"),
)
RATIO_HEADING = "first/this"

#: The requests of each trace, and how many times faster than in the trace they come.
WORKLOADS = {
    "conversation": (1200, 2.8),
    "toolagent": (1600, 4.4),
    "no-reuse": (800, 2.4),
    "shared-system-prompt": (800, 2.4),
}
NUM_WORKERS = 8
_QUICK_REQUESTS = 40
_LONG_PROMPTS = KvRouterConfig(prefill_load_scale=4.0, overlap_score_credit=2.0, decode_active_request_weight=10.0)
_POLICIES = {
    "kv, long prompts": ("kv", _LONG_PROMPTS),
    "kv": ("kv", None),
    "oracle, long prompts": ("oracle", _LONG_PROMPTS),
    "most-cached": ("most-cached", None),
    "least-loaded": ("least-loaded", None),
    "round-robin": ("round-robin", None),
}


async def measure(systems: Sequence[System], options: argparse.Namespace, say: Callable[[str], None]) -> Results:
    """Replay each trace with each policy, `options.runs` times with other seeds."""
    settle()
    results = Results()
    for run in range(options.runs):
        for workload in WORKLOADS:
            for name in _POLICIES:
                say(f"run {run + 1} of {options.runs}, {workload}, {name}")
                # It runs a loop of its own, and so in a thread.
                found = await asyncio.to_thread(_replay, workload, name, run, quick=options.quick)
                results.measurements.append(Measurement(name, run, workload, NUM_WORKERS, _shown(found)))
    return results


def _replay(workload: str, name: str, seed: int, *, quick: bool) -> Figures:
    num_requests, speedup_ratio = WORKLOADS[workload]
    policy, kv_config = _POLICIES[name]
    config = ReplayConfig(num_workers=NUM_WORKERS, arrival_speedup_ratio=speedup_ratio, seed=seed)
    requests = synthetic_trace(workload, _QUICK_REQUESTS if quick else num_requests, seed)
    (found,) = Replay(requests, read_policies([policy], kv_config), config).run().policies
    return found


def _shown(found: Figures) -> dict[str, float]:
    return {
        "ttft_mean_ms": found.ttft_s.mean * 1000,
        "ttft_p99_ms": found.ttft_s.p99 * 1000,
        "itl_mean_ms": found.itl_s.mean * 1000,
        "itl_p99_ms": found.itl_s.p99 * 1000,
        "latency_p99_s": found.latency_s.p99,
        "hit_percent": found.hit_rate * 100,
        "load_max_over_mean": found.load_max_over_mean,
    }

"""replay: what KV-aware routing gives, on traces with the statistics of published ones, and where nothing repeats.

Eight simulated workers serve each trace with one policy after the other, as fast as round robin can just about bear.
The clock is virtual, so the figures do not depend on the machine; each run is another seed. `kv` has the defaults, and
`kv, as 1.6` those of Dynamo 1.6. Below the table stands what routing must reach, and whether every run reaches it.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.figures import table, with_range
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
_AS_1_6 = KvRouterConfig(
    overlap_score_credit=1.0,
    share_overlap_score_credit=False,
    prefill_load_scale=1.0,
    decode_active_request_weight=0.0,
)
_POLICIES = {
    "kv": ("kv", None),
    "kv, as 1.6": ("kv", _AS_1_6),
    "oracle": ("oracle", None),
    "most-cached": ("most-cached", None),
    "least-loaded": ("least-loaded", None),
    "round-robin": ("round-robin", None),
}


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure of the KV router must be, divided by that of another policy on the same trace if one is named."""

    workload: str
    figure: str
    over: str | None
    limit: float
    is_at_most: bool = True

    def values(self, runs: Sequence[dict[str, dict[str, float]]]) -> list[float]:
        """Return it for each run, which is the figures of each policy."""
        return [
            run["kv"][self.figure] / (run[self.over][self.figure] if self.over is not None else 1.0) for run in runs
        ]

    def row(self, runs: Sequence[dict[str, dict[str, float]]]) -> list[str]:
        values = self.values(runs)
        is_met = max(values) <= self.limit if self.is_at_most else min(values) >= self.limit
        what = f"{self.workload}: {_HEADINGS[self.figure]} of kv" + (f" / {self.over}" if self.over else "")
        limit = f"{'at most' if self.is_at_most else 'at least'} {self.limit:.3g}"
        return [what, limit, with_range(values), "met" if is_met else "missed"]


_HEADINGS = {
    "ttft_mean_ms": "TTFT mean",
    "ttft_p99_ms": "TTFT p99",
    "hit_percent": "hits",
    "load_max_over_mean": "load, max/mean",
}
TARGETS = (
    Target("conversation", "ttft_mean_ms", "round-robin", 1 / 3),
    Target("toolagent", "ttft_mean_ms", "round-robin", 1 / 3),
    Target("conversation", "hit_percent", "oracle", 0.95, is_at_most=False),
    Target("toolagent", "hit_percent", "oracle", 0.95, is_at_most=False),
    Target("no-reuse", "ttft_p99_ms", "least-loaded", 1.05),
    Target("shared-system-prompt", "load_max_over_mean", None, 1.3),
)


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
    results.remarks = _targets(results)
    return results


def _targets(results: Results) -> str:
    """Return what is to be reached, and whether it is."""
    rows = [["must be reached in every run", "limit", "measured", ""]]
    for target in TARGETS:
        runs: dict[int, dict[str, dict[str, float]]] = {}
        for one in results.measurements:
            if one.workload == target.workload:
                runs.setdefault(one.run, {})[one.system] = one.figures
        rows.append(target.row(list(runs.values())))
    return table(rows)


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

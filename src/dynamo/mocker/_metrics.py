"""What `/metrics` says of simulated engines: vLLM's names, so that its dashboards and scalers work with them.

The labels are vLLM's `model_name` and `engine` (the data parallel rank), and `worker_id`, since one process may be
several workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from dynamo.mocker._engine import MockerEngine

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

LABELS = ("model_name", "engine", "worker_id")
#: Each is a field of `RankStats`.
GAUGES = {
    "num_requests_running": "Requests that run",
    "num_requests_waiting": "Requests that wait for a place, for blocks, or for a step",
    "kv_cache_usage_perc": "Share of the KV cache blocks that requests hold, from 0 to 1",
}
COUNTERS = {
    "prefix_cache_queries": "Tokens that were looked for in the KV cache",
    "prefix_cache_hits": "Tokens that were found there",
    "num_preemptions": "Requests that had to begin again because blocks ran out",
    "prompt_tokens": "Tokens of the prompts that have begun",
    "generation_tokens": "Tokens that were generated",
}
PREFIX = "vllm:"


class MockerMetrics:
    """Tells of all simulated engines of a process."""

    def __init__(self, model_name: str) -> None:
        self._model_name = model_name
        self._engines: dict[str, MockerEngine] = {}

    @property
    def num_engines(self) -> int:
        return len(self._engines)

    def add(self, worker_id: int, engine: MockerEngine) -> None:
        """Tell of an engine, too."""
        self._engines[f"{worker_id:x}"] = engine

    def collect(self) -> Iterable[Metric]:
        """Return the metrics as they are now."""
        return list(self._collect())

    def _collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        rows = [
            ((self._model_name, str(stats.dp_rank), worker_id), stats)
            for worker_id, engine in self._engines.items()
            for stats in engine.stats()
        ]
        for name, about in GAUGES.items():
            gauge = GaugeMetricFamily(PREFIX + name, about, labels=LABELS)
            for labels, stats in rows:
                gauge.add_metric(labels, getattr(stats, name))
            yield gauge
        for name, about in COUNTERS.items():
            counter = CounterMetricFamily(PREFIX + name, about, labels=LABELS)
            for labels, stats in rows:
                counter.add_metric(labels, getattr(stats, name))
            yield counter

"""How an engine is now, and what `/metrics` says of it.

The names are vLLM's, so that its dashboards and scalers work with them; so are the labels, and `worker_id` besides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

LABELS = ("model_name", "engine", "worker_id")
#: Each is a field of `EngineStats`.
GAUGES = {
    "num_requests_running": "Requests that run",
    "num_requests_waiting": "Requests that wait for a place",
    "kv_cache_usage_perc": "Share of the memory for running requests that they have, from 0 to 1",
}
COUNTERS = {
    "prefix_cache_queries": "Tokens that were looked for in the prefix cache",
    "prefix_cache_hits": "Tokens that were found there",
    "num_preemptions": "Requests that had to begin again because memory ran out",
    "prompt_tokens": "Tokens of the prompts that have begun",
    "generation_tokens": "Tokens that were generated",
}
PREFIX = "vllm:"


@dataclass(frozen=True, slots=True)
class EngineStats:
    """How an engine is now, and what it has done since the start."""

    num_requests_running: int
    num_requests_waiting: int
    #: How much of the memory for running requests they have, from 0 to 1.
    kv_cache_usage_perc: float
    #: Blocks of the prefix cache, and how many of them are filled.
    kv_total_blocks: int
    kv_cached_blocks: int
    #: Tokens that were looked for in the prefix cache, and found.
    prefix_cache_queries: int
    prefix_cache_hits: int
    num_preemptions: int
    prompt_tokens: int
    generation_tokens: int


class HasStats(Protocol):
    """An engine."""

    def stats(self) -> EngineStats:
        """Return how it is now."""


class EngineMetrics:
    """Tells of one engine; a source of `runtime.metrics`."""

    def __init__(self, engine: HasStats, model_name: str, worker_id: int) -> None:
        self._engine = engine
        self._labels = (model_name, "0", f"{worker_id:x}")

    def collect(self) -> Iterable[Metric]:
        """Return the metrics as they are now."""
        return list(self._collect())

    def _collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        stats = self._engine.stats()
        for name, about in GAUGES.items():
            gauge = GaugeMetricFamily(PREFIX + name, about, labels=LABELS)
            gauge.add_metric(self._labels, getattr(stats, name))
            yield gauge
        for name, about in COUNTERS.items():
            counter = CounterMetricFamily(PREFIX + name, about, labels=LABELS)
            counter.add_metric(self._labels, getattr(stats, name))
            yield counter

"""What routers count, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from dynamo.llm._kv_index_metrics import index_metrics
from dynamo.llm._kv_router.queue import DEFAULT_CLASS
from dynamo.llm._kv_router.stats import LIMITS_S, Phase, RouterStats
from dynamo.llm._routing import Router
from dynamo.llm._zero_hits import CountingRouter

OVERHEAD = "dynamo_router_overhead_"

#: Name -> what it counts, a field of `RouterStats`.
_COUNTERS = {
    "decisions": "Requests that were given a worker",
    "prompt_blocks": "Full KV cache blocks of their prompts",
    "predicted_cached_blocks": "Those of them that the worker was expected to have cached",
    "predicted_cached_tokens": "Their tokens",
    "repeated_prompts": "Prompts that began as an earlier one did",
    "repeated_prompts_without_hit": "Those of them that no worker had a block of",
    "reported_cached_tokens": "Tokens of prompts that workers say they had cached",
    "expected_hits": "Requests that were expected to find cached blocks, and whose worker says what it found",
    "expected_hits_missed": "Those of them that found nothing",
    "queued": "Requests that waited for a worker with room",
    "queue_rejected": "Requests that were refused because too many waited",
    "queue_abandoned": "Requests that waited in vain",
}
#: Name -> what takes this time, a field of `RouterStats`.
_PHASES = {
    "hashing": "Time to hash a prompt",
    "lookup": "Time to find who has cached it",
    "scheduling": "Time to weigh the workers",
    "total": "Time to give a request a worker, without hashing and waiting",
}


class RouterCollector:
    """What the KV routers have counted, by model; nothing where there is none.

    The names begin with `prefix`, but for those of where the time of a decision goes.
    """

    def __init__(self, routers: Callable[[], Mapping[str, Router]], prefix: str) -> None:
        self._routers = routers
        self._prefix = prefix

    def collect(self) -> Iterable[Metric]:
        routers = {model: router for model, router in self._routers().items() if isinstance(router, CountingRouter)}
        if not routers:
            return
        prefix = self._prefix
        stats = {model: router.stats for model, router in routers.items()}
        for name, about in _COUNTERS.items():
            family = CounterMetricFamily(prefix + name, about, labels=["model"])
            for model, counted in stats.items():
                family.add_metric([model], getattr(counted, name))
            yield family
        pending = GaugeMetricFamily(
            f"{prefix}queue_pending_requests", "Requests that wait now", labels=["model", "policy_class"]
        )
        for model, router in routers.items():
            for policy_class, length in (router.queue_lengths() or {DEFAULT_CLASS: 0}).items():
                pending.add_metric([model, policy_class], length)
        yield pending
        yield _histogram(f"{prefix}queue_seconds", "Time that requests waited", stats, "queueing", 1.0)
        for name, about in _PHASES.items():
            yield _histogram(f"{OVERHEAD}{name}_ms", f"{about}, in milliseconds", stats, name, 1000.0)
        indexes = {model: router.index_stats() for model, router in routers.items()}
        yield from index_metrics(
            f"{prefix}index_", {model: index for model, index in indexes.items() if index is not None}
        )
        sent = GaugeMetricFamily(
            f"{prefix}sent_blocks", "KV blocks that count as cached because they were sent", labels=["model"]
        )
        for model, router in routers.items():
            if (num_blocks := router.num_sent_blocks()) is not None:
                sent.add_metric([model], num_blocks)
        yield sent


def _histogram(name: str, about: str, stats: Mapping[str, RouterStats], phase: str, scale: float) -> Metric:
    family = HistogramMetricFamily(name, about, labels=["model"])
    for model, counted in stats.items():
        measured: Phase = getattr(counted, phase)
        family.add_metric([model], _buckets(measured, scale), measured.total_s * scale)
    return family


def _buckets(measured: Phase, scale: float) -> list[tuple[str, float]]:
    """The buckets as Prometheus has them: each counts everything up to its limit."""
    buckets: list[tuple[str, float]] = []
    total = 0
    for limit_s, count in zip([*LIMITS_S, float("inf")], measured.by_limit, strict=True):
        total += count
        buckets.append(("+Inf" if limit_s == float("inf") else f"{limit_s * scale:g}", total))
    return buckets

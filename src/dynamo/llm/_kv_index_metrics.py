"""How large the indexes of KV blocks are and what was wrong with events, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from dynamo.llm._kv_counted_index import KvIndexStats
from dynamo.llm._kv_faults import OF_PUBLISHERS, Fault

#: Name -> what it is, and the field of `KvIndexStats`.
_GAUGES = {
    "following": ("Whether KV events are heard", "is_following"),
    "publishers": ("Instances that have told of KV blocks", "num_publishers"),
    "refused_publishers": ("Those of them that are not listened to, for their block size", "num_refused"),
    "workers": ("Workers of whom KV blocks are known, each rank for itself", "num_workers"),
    "blocks": ("KV blocks that workers hold, as far as is known", "num_blocks"),
    "unique_blocks": ("The same, where a block counts once however many workers hold it", "num_unique_blocks"),
}
#: The same for what is counted.
_COUNTERS = {
    "answers": ("Answers of instances that were asked what they hold", "num_answers"),
    "dumps": ("Those of them, by rank, that told everything and not only what was missing", "num_dumps"),
}
#: A router sees these, each counted from 0.
_REASONS = [str(fault) for fault in Fault if fault not in OF_PUBLISHERS]


def index_metrics(prefix: str, indexes: Mapping[str, KvIndexStats]) -> Iterable[Metric]:
    """Yield what is known of the index of each model that has one, under names that begin so."""
    for name, (about, field) in _GAUGES.items():
        gauge = GaugeMetricFamily(prefix + name, about, labels=["model"])
        for model, stats in indexes.items():
            gauge.add_metric([model], float(getattr(stats, field)))
        yield gauge
    events = CounterMetricFamily(f"{prefix}events", "KV events that were taken", labels=["model", "event_type"])
    faults = CounterMetricFamily(
        f"{prefix}event_faults", "KV events, or blocks of them, that had no effect", labels=["model", "reason"]
    )
    for model, stats in indexes.items():
        for kind, count in stats.events.items():
            events.add_metric([model, kind], count)
        for reason in dict.fromkeys([*_REASONS, *stats.faults]):
            faults.add_metric([model, reason], stats.faults.get(reason, 0))
    yield from (events, faults)
    for name, (about, field) in _COUNTERS.items():
        counter = CounterMetricFamily(prefix + name, about, labels=["model"])
        for model, stats in indexes.items():
            counter.add_metric([model], getattr(stats, field))
        yield counter

"""What a frontend counts of its models, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily
from prometheus_client.metrics_core import Metric

from dynamo.llm._migration import MigrationStats

PREFIX = "dynamo_frontend_model_"


class MigrationCollector:
    """How often requests have moved between workers, by model; from 0, for every model that was served."""

    def __init__(self, stats: MigrationStats) -> None:
        self._stats = stats

    def collect(self) -> Iterable[Metric]:
        moved = CounterMetricFamily(
            f"{PREFIX}migration", "Requests that went on with another worker", labels=["model", "migration_type"]
        )
        for (model, kind), count in list(self._stats.migrations.items()):
            moved.add_metric([model, kind.value], count)
        yield moved
        for name, about, counts in (
            (
                "migration_max_seq_len_exceeded",
                "Requests that were too long to move",
                self._stats.max_seq_len_exceeded,
            ),
            ("migration_limit_exceeded", "Requests that had moved as often as they may", self._stats.limit_exceeded),
            ("poisoned_requests", "Requests given up when a second worker was lost with them", self._stats.poisoned),
        ):
            family = CounterMetricFamily(PREFIX + name, about, labels=["model"])
            for model, count in list(counts.items()):
                family.add_metric([model], count)
            yield family
        broken = CounterMetricFamily(
            f"{PREFIX}contract_violations", "What workers did wrong in their answers", labels=["model", "kind"]
        )
        for (model, violation), count in list(self._stats.contracts.violations.items()):
            broken.add_metric([model, violation.value], count)
        yield broken

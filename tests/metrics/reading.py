"""What a scraper reads of a registry: by the name of a sample and its labels."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import Metric
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from dynamo.metrics import Metrics
from dynamo.metrics._collect import collect
from dynamo.metrics._registry import Registry
from dynamo.metrics._scope import Scope

#: The name of a sample, and its labels as they are written.
Samples = dict[tuple[str, str], float]


class World:
    """Metrics that no other test sees, in the scope of an endpoint."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.registry = Registry(clock=lambda: self.now_s)
        self.scope = Scope("shop", "Till", "sell")
        self.metrics = Metrics(self.scope, self.registry)
        #: In no scope of their own.
        self.anywhere = Metrics(None, self.registry)

    def collect(self) -> list[Metric]:
        return collect([self.scope], self.registry)

    def read(self) -> Samples:
        """Every sample, read by a strict parser."""
        return samples(generate_latest(self).decode())  # type: ignore[no-untyped-call]

    def value(self, name: str, **labels: str) -> float | None:
        """One sample of the endpoint; None if there is none."""
        endpoint = {"dynamo_namespace": "shop", "dynamo_component": "Till", "dynamo_endpoint": "sell"}
        return self.read().get((name, written(endpoint | labels)))


def samples(text: str) -> Samples:
    """The samples of a page in the OpenMetrics format."""
    families: Iterable[Metric] = text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    return {(sample.name, written(sample.labels)): sample.value for family in families for sample in family.samples}


def written(labels: dict[str, str]) -> str:
    return ",".join(f"{label}={value}" for label, value in sorted(labels.items()))

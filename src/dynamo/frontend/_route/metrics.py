"""What `dynamo route` counts, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from dynamo.frontend._route.attempts import Attempts
from dynamo.frontend._route.backends import Backends
from dynamo.frontend._route.prompts import Prompts
from dynamo.frontend._route.router import BackendRouter

PREFIX = "dynamo_route_"


class RouteCollector:
    """The servers, the requests that were passed on, and the KV events."""

    def __init__(self, backends: Backends, router: BackendRouter, prompts: Prompts, attempts: Attempts) -> None:
        self._backends = backends
        self._router = router
        self._prompts = prompts
        self._attempts = attempts

    def collect(self) -> Iterable[Metric]:
        up = GaugeMetricFamily(f"{PREFIX}backend_up", "Whether a backend answers", labels=["backend"])
        active = GaugeMetricFamily(f"{PREFIX}active_requests", "Requests at a backend now", labels=["backend"])
        answers = CounterMetricFamily(f"{PREFIX}answers", "Answers of a backend", labels=["backend", "status"])
        failures = CounterMetricFamily(
            f"{PREFIX}failures", "Requests that a backend did not answer, or not to the end", labels=["backend", "code"]
        )
        for one in self._backends:
            up.add_metric([one.url], one.is_well)
            active.add_metric([one.url], one.num_active)
            for status, count in list(one.answers.items()):
                answers.add_metric([one.url, str(status)], count)
            for code, count in list(one.failures.items()):
                failures.add_metric([one.url, code], count)
        yield from (up, active, answers, failures)
        yield _counter("retries", "Requests that were sent to another backend", "reason", self._attempts.retries)
        yield _counter("prompts", "Prompts, by how they were compared", "by", self._prompts.counts)
        if (events := self._router.events) is not None:
            blocks = GaugeMetricFamily(f"{PREFIX}kv_blocks", "Blocks that a backend holds", labels=["backend"])
            for one in self._backends:
                if (held := events.num_blocks(one.id)) is not None:
                    blocks.add_metric([one.url], held)
            yield blocks
            yield _counter("kv_event_faults", "What was wrong with KV events", "reason", events.faults())


def _counter(name: str, about: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(PREFIX + name, about, labels=[label])
    for value, count in list(counts.items()):
        family.add_metric([value], count)
    return family

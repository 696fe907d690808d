"""The counters of a runtime, as Prometheus reads them: made from plain numbers at each scrape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from dynamo.runtime._measured import DURATION_BUCKETS_S, Measured

if TYPE_CHECKING:
    from dynamo.runtime._runtime import DistributedRuntime

LABELS = ("dynamo_namespace", "dynamo_component", "dynamo_endpoint")
PREFIX = "dynamo_component_"

_BOUNDS = [*map(str, DURATION_BUCKETS_S), "+Inf"]

#: The labels of an endpoint, and what it has counted.
Row = tuple[list[str], Measured]


def build_registry(runtime: DistributedRuntime) -> CollectorRegistry:
    """Return a registry of the runtime's own: its endpoints, and the process."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_EndpointCollector(runtime))
    ProcessCollector(registry=registry)
    return registry


class _EndpointCollector(Collector):
    """Everything that endpoints of a runtime count, also of those that are closed."""

    def __init__(self, runtime: DistributedRuntime) -> None:
        self._runtime = runtime

    def collect(self) -> Iterable[Metric]:
        counted = self._runtime.measured()
        rows = [([id.namespace, id.component, id.endpoint], measured) for id, measured in counted.items()]
        yield from _counters(rows)
        yield from _gauges(rows, self._runtime.uptime_s())
        durations = HistogramMetricFamily(
            f"{PREFIX}request_duration_seconds", "How long requests took, to the last item", labels=LABELS
        )
        for labels, measured in rows:
            buckets = zip(_BOUNDS, accumulate(measured.buckets), strict=True)
            durations.add_metric(labels, buckets=list(buckets), sum_value=measured.duration_sum_s)
        yield durations

    def describe(self) -> Iterable[Metric]:
        return []


def _counters(rows: list[Row]) -> Iterator[Metric]:
    requests = CounterMetricFamily(f"{PREFIX}requests", "Requests that came", labels=LABELS)
    sizes = CounterMetricFamily(f"{PREFIX}request_bytes", "Bytes of the requests that came", labels=LABELS)
    cancelled = CounterMetricFamily(
        f"{PREFIX}cancellation", "Requests that ended before the handler was done", labels=LABELS
    )
    errors = CounterMetricFamily(f"{PREFIX}errors", "Requests that failed, by where", labels=[*LABELS, "error_type"])
    for labels, measured in rows:
        requests.add_metric(labels, measured.requests)
        sizes.add_metric(labels, measured.request_bytes)
        cancelled.add_metric(labels, measured.cancelled)
        for error_type, count in measured.errors.items():
            errors.add_metric([*labels, error_type.value], count)
    return iter((requests, sizes, cancelled, errors))


def _gauges(rows: list[Row], uptime_s: float) -> Iterator[Metric]:
    inflight = GaugeMetricFamily(f"{PREFIX}inflight_requests", "Requests that run", labels=LABELS)
    uptime = GaugeMetricFamily(f"{PREFIX}uptime_seconds", "How long the process has been a member", labels=LABELS)
    for labels, measured in rows:
        inflight.add_metric(labels, measured.inflight)
        uptime.add_metric(labels, uptime_s)
    return iter((inflight, uptime))

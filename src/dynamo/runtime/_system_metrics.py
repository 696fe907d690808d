"""The counters of a runtime, as Prometheus reads them: made from plain numbers at each scrape."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from dynamo.metrics._collect import collect
from dynamo.metrics._names import names_on_page
from dynamo.metrics._processes import is_shared, with_pid
from dynamo.metrics._scope import Scope
from dynamo.runtime._arguments import check_type
from dynamo.runtime._discovery_health import DiscoveryCollector
from dynamo.runtime._exposition import Source
from dynamo.runtime._measured import DURATION_BUCKETS_S, Called, Measured
from dynamo.runtime._transport_metrics import TransportCollector

if TYPE_CHECKING:
    from dynamo.runtime._runtime import DistributedRuntime

logger = logging.getLogger(__name__)

LABELS = ("dynamo_namespace", "dynamo_component", "dynamo_endpoint")
PREFIX = "dynamo_component_"
#: What the callers of an endpoint in this process count; the labels are those of the endpoint that is called.
CLIENT_PREFIX = "dynamo_client_"

_BOUNDS = [*map(str, DURATION_BUCKETS_S), "+Inf"]

#: The labels of an endpoint, and what it has counted.
Row = tuple[list[str], Measured]
CalledRow = tuple[list[str], Called]


class Everything(Collector):
    """The runtime's own metrics, of its endpoints, its discovery, its planes and the process, and all others.

    With several processes behind one scrape, `dynamo.metrics` tells of all of them; everything else is of this
    process, and says so with its `pid`.
    """

    def __init__(
        self, runtime: DistributedRuntime, sources: Sequence[Source], scopes: Callable[[], Iterable[Scope]]
    ) -> None:
        self._own = CollectorRegistry(auto_describe=False)
        self._own.register(_EndpointCollector(runtime))
        self._own.register(DiscoveryCollector(runtime))
        self._own.register(TransportCollector(runtime))
        ProcessCollector(registry=self._own)
        self._counted = _Counted(scopes)
        self._sources = sources

    def encoded(self, encode: Callable[[Collector], bytes]) -> bytes:
        """Return everything as `encode` writes it, without what it cannot write."""
        metrics = list(self.collect())
        try:
            return encode(_These(metrics))
        except Exception:  # of whatever kind: it is a number or a text that a source made up
            return encode(_These([metric for metric in metrics if _can_be_written(metric, encode)]))

    def collect(self) -> Iterator[Metric]:
        names: set[str] = set()
        of_this_process = with_pid if is_shared() else _as_it_is
        for metric in self._own.collect():
            names.update(names_on_page(metric.name, metric.type))
            yield of_this_process(metric)
        for source in (self._counted, *self._sources):
            for metric in _metrics_of(source):
                its_names = names_on_page(metric.name, metric.type)
                if names.isdisjoint(its_names):
                    names.update(its_names)
                    yield metric if source is self._counted else of_this_process(metric)
                else:  # a scraper would refuse all of them
                    logger.error("the metric %s of %r is left out: another one has its name", metric.name, source)


def _as_it_is(metric: Metric) -> Metric:
    return metric


def _metrics_of(source: Source) -> list[Metric]:
    try:
        metrics = list(source.collect())
        for metric in metrics:
            check_type("metric", metric, Metric, "metrics of prometheus_client")
        return metrics
    except Exception:
        logger.exception("the metrics of %r are left out", source)
        return []


def _can_be_written(metric: Metric, encode: Callable[[Collector], bytes]) -> bool:
    try:
        encode(_These([metric]))
    except Exception:
        logger.exception("the metric %s is left out: it cannot be written", metric.name)
        return False
    return True


class _These(Collector):
    """Metrics that were collected."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


class _Counted:
    """What `dynamo.metrics` has."""

    def __init__(self, scopes: Callable[[], Iterable[Scope]]) -> None:
        self._scopes = scopes

    def collect(self) -> Iterable[Metric]:
        return collect(self._scopes())


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
        calls = [([id.namespace, id.component, id.endpoint], called) for id, called in self._runtime.called().items()]
        yield from _client_counters(calls)
        yield from _client_gauges(calls)

    def describe(self) -> Iterable[Metric]:
        return []


def _counters(rows: list[Row]) -> Iterator[Metric]:
    requests = CounterMetricFamily(f"{PREFIX}requests", "Requests that came", labels=LABELS)
    sizes = CounterMetricFamily(f"{PREFIX}request_bytes", "Bytes of the requests that came", labels=LABELS)
    answers = CounterMetricFamily(
        f"{PREFIX}response_bytes", "Bytes of the items that were sent, of requests that have ended", labels=LABELS
    )
    cancelled = CounterMetricFamily(
        f"{PREFIX}cancellation", "Requests that ended before the handler was done", labels=LABELS
    )
    errors = CounterMetricFamily(f"{PREFIX}errors", "Requests that failed, by where", labels=[*LABELS, "error_type"])
    rejected = CounterMetricFamily(
        f"{PREFIX}rejected_requests", "Requests that were refused before they began, by why", labels=[*LABELS, "reason"]
    )
    canaries = CounterMetricFamily(f"{PREFIX}canaries", "Requests of our own to an idle endpoint", labels=LABELS)
    silent = CounterMetricFamily(f"{PREFIX}canary_failures", "Canaries without an answer in time", labels=LABELS)
    for labels, measured in rows:
        requests.add_metric(labels, measured.requests)
        sizes.add_metric(labels, measured.request_bytes)
        answers.add_metric(labels, measured.response_bytes)
        cancelled.add_metric(labels, measured.cancelled)
        for error_type, count in measured.errors.items():
            errors.add_metric([*labels, error_type.value], count)
        for reason, count in measured.rejected.items():
            rejected.add_metric([*labels, reason.value], count)
        canaries.add_metric(labels, measured.canaries)
        silent.add_metric(labels, measured.canary_failures)
    return iter((requests, sizes, answers, cancelled, errors, rejected, canaries, silent))


def _gauges(rows: list[Row], uptime_s: float) -> Iterator[Metric]:
    inflight = GaugeMetricFamily(f"{PREFIX}inflight_requests", "Requests that run", labels=LABELS)
    uptime = GaugeMetricFamily(f"{PREFIX}uptime_seconds", "How long the process has been a member", labels=LABELS)
    queued = GaugeMetricFamily(f"{PREFIX}queued_requests", "Requests that wait for a place to run", labels=LABELS)
    drain = GaugeMetricFamily(
        f"{PREFIX}drain_time_seconds", "How long the last close waited for requests to finish", labels=LABELS
    )
    cleanup = GaugeMetricFamily(f"{PREFIX}cleanup_time_seconds", "How long the others then took to end", labels=LABELS)
    for labels, measured in rows:
        inflight.add_metric(labels, measured.inflight)
        uptime.add_metric(labels, uptime_s)
        queued.add_metric(labels, measured.queued)
        drain.add_metric(labels, measured.drain_s)
        cleanup.add_metric(labels, measured.cleanup_s)
    return iter((inflight, uptime, queued, drain, cleanup))


def _client_counters(rows: list[CalledRow]) -> Iterator[Metric]:
    requests = CounterMetricFamily(f"{CLIENT_PREFIX}requests", "Requests that were sent", labels=LABELS)
    retries = CounterMetricFamily(
        f"{CLIENT_PREFIX}retries", "Requests sent to another instance, by why", labels=[*LABELS, "reason"]
    )
    denied = CounterMetricFamily(
        f"{CLIENT_PREFIX}retries_denied", "Refused requests for which the budget had no retry", labels=LABELS
    )
    stalls = CounterMetricFamily(
        f"{CLIENT_PREFIX}stalls", "Streams given up because an item took too long", labels=[*LABELS, "phase"]
    )
    quarantined = CounterMetricFamily(
        f"{CLIENT_PREFIX}quarantined", "How often an instance began to be passed over", labels=[*LABELS, "fault"]
    )
    for labels, called in rows:
        requests.add_metric(labels, called.requests)
        denied.add_metric(labels, called.retries_denied)
        for family, name_counts in (
            (retries, called.retries),
            (stalls, called.stalls),
            (quarantined, called.quarantined),
        ):
            for name, count in name_counts.items():
                family.add_metric([*labels, name.value], count)
    return iter((requests, retries, denied, stalls, quarantined))


def _client_gauges(rows: list[CalledRow]) -> Iterator[Metric]:
    out = GaugeMetricFamily(f"{CLIENT_PREFIX}quarantined_instances", "Instances that are passed over", labels=LABELS)
    left = GaugeMetricFamily(f"{CLIENT_PREFIX}retries_left", "Retries that the budget has left", labels=LABELS)
    for labels, called in rows:
        out.add_metric(labels, called.out)
        left.add_metric(labels, called.retries_left)
    return iter((out, left))

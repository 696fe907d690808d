"""What the router has counted, as Prometheus reads it: what every KV router counts, its workers and its bookings."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from dynamo.llm import KvRouter
from dynamo.llm._router_metrics import RouterCollector
from dynamo.router._bookings import Bookings

PREFIX = "dynamo_component_router_"


class RouterMetrics:
    """The counters of one router. `model` is what its workers serve, as far as it is known."""

    def __init__(self, router: KvRouter, bookings: Bookings, model: Callable[[], str]) -> None:
        self._router = router
        self._bookings = bookings
        self._model = model
        self._of_routers = RouterCollector(lambda: {model(): router}, PREFIX)

    def collect(self) -> Iterable[Metric]:
        yield from self._of_routers.collect()
        for name, about, value in (
            ("workers", "Workers that requests may go to", self._router.num_workers),
            ("bookings", "Requests that clients have booked, and send themselves", len(self._bookings)),
        ):
            gauge = GaugeMetricFamily(PREFIX + name, about, labels=["model"])
            gauge.add_metric([self._model()], value)
            yield gauge
        for name, about, value in (
            ("bookings_expired", "Bookings that were never freed", self._bookings.num_expired),
            ("bookings_dropped", "Bookings that were given up because there were too many", self._bookings.num_dropped),
        ):
            counter = CounterMetricFamily(PREFIX + name, about, labels=["model"])
            counter.add_metric([self._model()], value)
            yield counter

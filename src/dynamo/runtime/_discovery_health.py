"""What the system server says of discovery: whether what it tells is current, and how leases are renewed.

A process whose discovery is degraded serves on with what was known, so that it stays ready; but whoever watches it
is told, in `/health` and by metrics.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from dynamo._core.discovery.status import RENEWAL_BUCKETS_S, DiscoveryStatus
from dynamo._core.errors import DynamoError

if TYPE_CHECKING:
    from dynamo.runtime._runtime import DistributedRuntime

PREFIX = "dynamo_component_discovery_"

_BOUNDS = [*map(str, RENEWAL_BUCKETS_S), "+Inf"]


def degradation(runtime: DistributedRuntime) -> dict[str, object] | None:
    """What `/health` says of a discovery that is degraded: why, and for how long; None if it is well."""
    status = _status(runtime)
    return None if status is None else status.degradation()


class DiscoveryCollector(Collector):
    """The state of a runtime's discovery. Counters are there from the beginning, at zero."""

    def __init__(self, runtime: DistributedRuntime) -> None:
        self._runtime = runtime

    def collect(self) -> Iterable[Metric]:
        status = _status(self._runtime) or DiscoveryStatus()
        yield GaugeMetricFamily(
            f"{PREFIX}degraded", "1 while discovery cannot be reached and what was known is served", status.is_degraded
        )
        yield GaugeMetricFamily(f"{PREFIX}degraded_seconds", "For how long it has been degraded", status.degraded_s())
        yield CounterMetricFamily(
            f"{PREFIX}lease_renewal_failures", "Times that a lease could not be renewed", status.renew_failures
        )
        yield CounterMetricFamily(
            f"{PREFIX}leases_regranted", "Leases that had ended and were granted again", status.leases_regranted
        )
        buckets = list(zip(_BOUNDS, map(float, accumulate(status.renewal_buckets)), strict=True))
        yield HistogramMetricFamily(
            f"{PREFIX}lease_renewal_seconds", "How long renewing a lease took", buckets, status.renewal_sum_s
        )

    def describe(self) -> Iterable[Metric]:
        return []


def _status(runtime: DistributedRuntime) -> DiscoveryStatus | None:
    """None while the runtime has not opened its discovery: the system server is there before it."""
    try:
        return runtime.discovery.status
    except DynamoError:
        return None

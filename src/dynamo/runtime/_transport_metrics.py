"""What the planes of a runtime have counted: connections and bytes of requests, and events that were lost.

The series are there from the beginning, at zero, whether or not the process uses the plane.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from dynamo._core.errors import DynamoError
from dynamo._core.event_plane import EventStats
from dynamo._core.request_plane import PlaneStats

if TYPE_CHECKING:
    from dynamo.runtime._runtime import DistributedRuntime

TCP_PREFIX = "dynamo_transport_tcp_"
EVENT_PREFIX = "dynamo_transport_event_"


class TransportCollector(Collector):
    """The counters of the planes of a runtime."""

    def __init__(self, runtime: DistributedRuntime) -> None:
        self._runtime = runtime

    def collect(self) -> Iterable[Metric]:
        try:
            requests: object = self._runtime.requests
            events = self._runtime.events.stats
        except DynamoError:  # not joined yet: the system server is there before
            requests, events = None, None
        stats = getattr(requests, "stats", None)
        yield from _tcp(stats if isinstance(stats, PlaneStats) else PlaneStats())
        yield from _events(events or EventStats())

    def describe(self) -> Iterable[Metric]:
        return []


def _tcp(stats: PlaneStats) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        f"{TCP_PREFIX}connections", "Connections that are open, of both ends", stats.num_connections
    )
    for name, about, value in (
        ("pool_active", "Connections to those who are called, with requests on them", stats.num_pool_active),
        ("pool_idle", "Connections to those who are called, without requests", stats.num_pool_idle),
    ):
        yield GaugeMetricFamily(TCP_PREFIX + name, about, value)
    for name, about, value in (
        ("connections_opened", "Connections that were opened, of both ends", stats.num_connections_opened),
        ("bytes_sent", "Bytes that were sent", stats.bytes_sent),
        ("bytes_received", "Bytes that came", stats.bytes_received),
        ("errors", "Connections that were closed or refused, for whatever reason", _num_errors(stats)),
        ("unread_closed", "Connections closed because the peer read nothing", stats.num_unread_closed),
        ("messages_ignored", "Messages of newer peers that were left out", stats.num_messages_ignored),
    ):
        yield CounterMetricFamily(TCP_PREFIX + name, about, value)
    for name, about, counts in (
        ("frames_rejected", "Connections closed for a frame that was refused, by why", stats.frames_rejected),
        ("hello_failures", "Connections that were never used, by why", stats.hello_failures),
    ):
        family = CounterMetricFamily(TCP_PREFIX + name, about, labels=["reason"])
        for reason, count in counts.items():
            family.add_metric([reason], count)
        yield family


def _num_errors(stats: PlaneStats) -> int:
    return sum(stats.frames_rejected.values()) + sum(stats.hello_failures.values()) + stats.num_unread_closed


def _events(stats: EventStats) -> Iterator[Metric]:
    for name, about, value in (
        ("published", "Events that were published", stats.num_published),
        ("dropped", "Events that were published and not sent", stats.num_dropped),
        ("missed", "Events that readers were told they have missed", stats.num_missed),
        ("unreadable", "Messages that were no events", stats.num_unreadable),
        ("refused", "Peers that have not proved who they are, or to whom we have not", stats.num_refused),
    ):
        yield CounterMetricFamily(EVENT_PREFIX + name, about, value)

"""Older names over the metrics there are: they had a type for integers, a type for labels, and their own callbacks.

What `create_*` makes is called `dynamo_component_...` on `/metrics`, as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Self, cast

from typing_extensions import deprecated

from dynamo._core.stability import stable

if TYPE_CHECKING:
    from dynamo.metrics._metric import Counter, Gauge, Histogram
    from dynamo.metrics._metrics import Metrics

PREFIX = "dynamo_component_"

#: Labels that are the same for every use of a metric, as pairs.
ConstLabels = Sequence[tuple[str, str]]


class FormerCounter:
    """What else a counter was asked to do."""

    __slots__ = ()

    @deprecated("inc_by is inc now, and goes with version 1.0")
    def inc_by(self, value: float) -> None:
        """Add `value`."""
        cast("Counter", self).inc(value)


class FormerGauge:
    """What else a gauge was asked to do."""

    __slots__ = ()

    @deprecated("inc_by is inc now, and goes with version 1.0")
    def inc_by(self, value: float) -> None:
        """Add `value`."""
        cast("Gauge", self).inc(value)

    @deprecated("dec_by is dec now, and goes with version 1.0")
    def dec_by(self, value: float) -> None:
        """Subtract `value`."""
        cast("Gauge", self).dec(value)


@stable(since="0.1", constructor=False)
@deprecated("dynamo.metrics.CounterVec is dynamo.metrics.Counter now, and goes with version 1.0")
class CounterVec:
    """A counter with labels, whose values are given with each use; `Counter.labels` does the same."""

    _counter: Counter
    _const_labels: dict[str, str]

    @classmethod
    def _over(cls, counter: Counter, const_labels: Mapping[str, str]) -> Self:
        """Make one; who calls the class is warned."""
        vec = object.__new__(cls)
        vec._counter = counter
        vec._const_labels = dict(const_labels)
        return vec

    def inc(self, labels: Mapping[str, str]) -> None:
        """Add 1 where the labels are these."""
        self._counter.labels(**self._const_labels, **labels).inc()

    def inc_by(self, labels: Mapping[str, str], value: float) -> None:
        """Add `value` where the labels are these."""
        self._counter.labels(**self._const_labels, **labels).inc(value)

    def get(self, labels: Mapping[str, str]) -> float:
        """What was counted where the labels are these."""
        return self._counter.labels(**self._const_labels, **labels).get()


@stable(since="0.1", constructor=False)
@deprecated("dynamo.metrics.GaugeVec is dynamo.metrics.Gauge now, and goes with version 1.0")
class GaugeVec:
    """A gauge with labels, whose values are given with each use; `Gauge.labels` does the same."""

    _gauge: Gauge
    _const_labels: dict[str, str]

    @classmethod
    def _over(cls, gauge: Gauge, const_labels: Mapping[str, str]) -> Self:
        """Make one; who calls the class is warned."""
        vec = object.__new__(cls)
        vec._gauge = gauge
        vec._const_labels = dict(const_labels)
        return vec

    def set(self, value: float, labels: Mapping[str, str]) -> None:
        """Be `value` where the labels are these."""
        self._of(labels).set(value)

    def inc(self, labels: Mapping[str, str]) -> None:
        """Add 1 where the labels are these."""
        self._of(labels).inc()

    def inc_by(self, labels: Mapping[str, str], value: float) -> None:
        """Add `value` where the labels are these."""
        self._of(labels).inc(value)

    def dec(self, labels: Mapping[str, str]) -> None:
        """Subtract 1 where the labels are these."""
        self._of(labels).dec()

    def dec_by(self, labels: Mapping[str, str], value: float) -> None:
        """Subtract `value` where the labels are these."""
        self._of(labels).dec(value)

    def get(self, labels: Mapping[str, str]) -> float:
        """What was set where the labels are these."""
        return self._of(labels).get()

    def _of(self, labels: Mapping[str, str]) -> Gauge:
        return self._gauge.labels(**self._const_labels, **labels)


@stable(since="0.1", constructor=False)
class RuntimeMetrics:
    """The older names of the methods of `Metrics`, which is one of these."""

    @deprecated("create_counter is Metrics.counter now, and goes with version 1.0")
    def create_counter(self, name: str, description: str, labels: ConstLabels | None = None) -> Counter:
        """Return a counter, with these labels."""
        return _counter(self, name, description, labels)

    @deprecated("create_intcounter is Metrics.counter now, and goes with version 1.0")
    def create_intcounter(self, name: str, description: str, labels: ConstLabels | None = None) -> Counter:
        """Return a counter, with these labels."""
        return _counter(self, name, description, labels)

    @deprecated("create_countervec is Metrics.counter now, and goes with version 1.0")
    def create_countervec(
        self, name: str, description: str, label_names: Sequence[str], const_labels: ConstLabels | None = None
    ) -> CounterVec:
        """Return a counter whose label values are given with each use."""
        return _countervec(self, name, description, label_names, const_labels)

    @deprecated("create_intcountervec is Metrics.counter now, and goes with version 1.0")
    def create_intcountervec(
        self, name: str, description: str, label_names: Sequence[str], const_labels: ConstLabels | None = None
    ) -> CounterVec:
        """Return a counter whose label values are given with each use."""
        return _countervec(self, name, description, label_names, const_labels)

    @deprecated("create_gauge is Metrics.gauge now, and goes with version 1.0")
    def create_gauge(self, name: str, description: str, labels: ConstLabels | None = None) -> Gauge:
        """Return a gauge, with these labels."""
        return _gauge(self, name, description, labels)

    @deprecated("create_intgauge is Metrics.gauge now, and goes with version 1.0")
    def create_intgauge(self, name: str, description: str, labels: ConstLabels | None = None) -> Gauge:
        """Return a gauge, with these labels."""
        return _gauge(self, name, description, labels)

    @deprecated("create_gaugevec is Metrics.gauge now, and goes with version 1.0")
    def create_gaugevec(
        self, name: str, description: str, label_names: Sequence[str], const_labels: ConstLabels | None = None
    ) -> GaugeVec:
        """Return a gauge whose label values are given with each use."""
        return _gaugevec(self, name, description, label_names, const_labels)

    @deprecated("create_intgaugevec is Metrics.gauge now, and goes with version 1.0")
    def create_intgaugevec(
        self, name: str, description: str, label_names: Sequence[str], const_labels: ConstLabels | None = None
    ) -> GaugeVec:
        """Return a gauge whose label values are given with each use."""
        return _gaugevec(self, name, description, label_names, const_labels)

    @deprecated("create_histogram is Metrics.histogram now, and goes with version 1.0")
    def create_histogram(
        self,
        name: str,
        description: str,
        buckets: Sequence[float] | None = None,
        labels: ConstLabels | None = None,
    ) -> Histogram:
        """Return a histogram, with these labels."""
        const, metrics = dict(labels or ()), cast("Metrics", self)
        if buckets is None:
            histogram = metrics.histogram(PREFIX + name, description, tuple(const))
        else:
            histogram = metrics.histogram(PREFIX + name, description, tuple(const), buckets)
        return histogram.labels(**const) if const else histogram

    @deprecated("register_callback is Metrics.on_scrape now, and goes with version 1.0")
    def register_callback(self, callback: Callable[[], None]) -> None:
        """Call `callback` whenever `/metrics` is read."""
        cast("Metrics", self).on_scrape(callback)

    @deprecated("register_prometheus_expfmt_callback is Metrics.add_text now, and goes with version 1.0")
    def register_prometheus_expfmt_callback(self, callback: Callable[[], str | bytes]) -> None:
        """Show on `/metrics` what `callback` returns."""
        cast("Metrics", self).add_text(callback)


def _counter(metrics: RuntimeMetrics, name: str, description: str, labels: ConstLabels | None) -> Counter:
    const = dict(labels or ())
    counter = cast("Metrics", metrics).counter(PREFIX + name, description, tuple(const))
    return counter.labels(**const) if const else counter


def _gauge(metrics: RuntimeMetrics, name: str, description: str, labels: ConstLabels | None) -> Gauge:
    const = dict(labels or ())
    gauge = cast("Metrics", metrics).gauge(PREFIX + name, description, tuple(const))
    return gauge.labels(**const) if const else gauge


def _countervec(
    metrics: RuntimeMetrics, name: str, description: str, label_names: Sequence[str], labels: ConstLabels | None
) -> CounterVec:
    const = dict(labels or ())
    return CounterVec._over(cast("Metrics", metrics).counter(PREFIX + name, description, (*const, *label_names)), const)


def _gaugevec(
    metrics: RuntimeMetrics, name: str, description: str, label_names: Sequence[str], labels: ConstLabels | None
) -> GaugeVec:
    const = dict(labels or ())
    return GaugeVec._over(cast("Metrics", metrics).gauge(PREFIX + name, description, (*const, *label_names)), const)

"""What a program counts with: counters, gauges and histograms whose series follow the scope they are used in.

An increment costs little more than one of `prometheus_client`: a scope remembers the series of each metric that was
used in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, NoReturn, Self, TypeAlias

import prometheus_client
from prometheus_client.samples import Sample

from dynamo._core.errors import InvalidArgument
from dynamo._core.shown import shown
from dynamo._core.stability import stable
from dynamo.metrics._checks import check_asked, is_number, refuse_amount
from dynamo.metrics._compat import FormerCounter, FormerGauge
from dynamo.metrics._family import LABEL_VALUES_MAX, Family, Series_co
from dynamo.metrics._scope import GaugeFunction, Scope, current_scope

if TYPE_CHECKING:
    AnyMetric: TypeAlias = "Counter | Gauge | Histogram"

_current = current_scope.get
_INFINITY = math.inf


class _Metric(Generic[Series_co]):
    """A metric, or with label values a part of one, in one scope or in whichever is current."""

    __slots__ = ("_children", "_family", "_is_kept", "_own", "_scope")

    def __init__(self, family: Family[Series_co], scope: Scope | None, own: tuple[str, ...] | None = None) -> None:
        self._family = family
        self._scope = scope
        # None while its own labels have no values.
        self._own = own if own is not None or family.shape.labels else ()
        #: Whether labels() returns it again; scopes remember no others, or they would grow without end.
        self._is_kept = True
        # The mutable state: what labels() has returned.
        self._children: dict[tuple[object, ...], Self] = {}

    @property
    def name(self) -> str:
        """What it is called on `/metrics`, but for the `_total` of a counter."""
        return self._family.name

    def labels(self, *values: object, **values_by_name: object) -> Self:
        """Return the part of the metric that has these label values, in the order of the labels or by name.

        Values become text. A process keeps a thousand combinations of a metric, the attached labels among them: what
        comes with others is counted together as `other`, and of a gauge left out. Raises `InvalidArgument` if the
        names or the number of the values are not those of the labels.
        """
        if values_by_name:
            values = self._in_order(values, values_by_name)
        try:
            child = self._children.get(values)
        except TypeError:  # a value that has no hash
            child = None
        return child or self._child(values)

    def _in_order(self, values: tuple[object, ...], values_by_name: dict[str, object]) -> tuple[object, ...]:
        names = self._family.shape.labels
        if values or len(names) != len(values_by_name):
            self._refuse_labels((*values, *values_by_name))
        try:
            return tuple([values_by_name[name] for name in names])
        except KeyError:
            self._refuse_labels(tuple(values_by_name))

    def _child(self, values: tuple[object, ...]) -> Self:
        if self._own is not None or len(values) != len(self._family.shape.labels):
            self._refuse_labels(values)
        try:
            own = tuple(map(_text, values))
        except ValueError:  # an int of too many digits
            self._refuse_labels(values)
        child = self._children.get(own)
        if child is None:
            child = type(self)(self._family, self._scope, own)
            child._is_kept = len(self._children) < LABEL_VALUES_MAX
            if child._is_kept:
                self._children[own] = child
        return child

    def _refuse_labels(self, given: tuple[object, ...]) -> NoReturn:
        labels = self._family.shape.labels
        allowed = (
            f"its labels are {', '.join(labels)}, each of which has one value that can be text"
            if labels
            else "it has no labels"
        )
        if labels and self._own is not None:
            allowed = "its labels have their values already"
        raise InvalidArgument(
            f"{self.name}: labels({', '.join(map(shown, given))[:300]}) is not allowed: {allowed}", metric=self.name
        )

    def _find(self, scope: Scope) -> Series_co | None:
        """Return the series in this scope; None if there are too many. Only one of its own is remembered."""
        found = scope.found  # before the labels, as a scope that is renamed replaces it after them
        series, is_own = self._family.series(scope.attached, self._own_values())
        if is_own and self._is_kept:
            found[self] = series
        return series

    def _own_values(self) -> tuple[str, ...]:
        if self._own is None:
            labels = ", ".join(f"{label}=..." for label in self._family.shape.labels)
            raise InvalidArgument(f"{self.name} has labels: use {self.name}.labels({labels})", metric=self.name)
        return self._own

    def _series(self) -> Series_co | None:
        scope = self._scope or _current()
        series: Series_co | None = scope.found.get(self)
        return self._find(scope) if series is None else series

    def _sample(self, suffix: str) -> float:
        """The value of a sample of the series in this scope; 0 if there is none."""
        series = self._series()
        samples: list[Sample] = [] if series is None else next(iter(series.collect())).samples
        return next((sample.value for sample in samples if sample.name == self.name + suffix), 0.0)

    def __repr__(self) -> str:
        labels = zip(self._family.shape.labels, self._own or (), strict=False)
        return f"<{self._family.shape.kind} {self.name}{dict(labels) or ''}>"


@stable(since="0.1", constructor=False)
class Counter(_Metric[prometheus_client.Counter], FormerCounter):
    """A number that only goes up, such as requests that came; `counter` makes one."""

    __slots__ = ()

    def inc(self, amount: float = 1) -> None:
        """Add `amount`, an int or a float.

        Raises `InvalidArgument` if that is negative or not finite, or if the metric has labels without values.
        """
        scope = self._scope or _current()
        series = scope.found.get(self)
        if series is None:
            series = self._find(scope)
        try:
            if 0 <= amount < _INFINITY:
                # A float32 of numpy would make one of the sum, which then cannot grow beyond 2**24 by 1.
                series.inc(float(amount))  # type: ignore[union-attr]  # only a gauge leaves something out
                return
        except (TypeError, ValueError, OverflowError):
            if is_number(amount):
                raise
        refuse_amount(self.name, "amount", amount, "a finite number that is not negative")

    def get(self) -> float:
        """What this process has counted in the scope in which it is asked."""
        return self._sample("_total")


@stable(since="0.1", constructor=False)
class Gauge(_Metric[prometheus_client.Gauge], FormerGauge):
    """A number that goes up and down, such as requests that wait; `gauge` makes one."""

    __slots__ = ()

    def set(self, value: float) -> None:
        """Be `value`, an int or a float. Raises `InvalidArgument` if that is no number."""
        try:
            number = float(value + 0)  # to text nothing can be added
        except (TypeError, ValueError, OverflowError):
            refuse_amount(self.name, "value", value, "a number")
        if (series := self._series()) is not None:
            series.set(number)

    def inc(self, amount: float = 1) -> None:
        """Add `amount`, an int or a float. Raises `InvalidArgument` if that is not finite."""
        self._add(amount, amount)

    def dec(self, amount: float = 1) -> None:
        """Subtract `amount`, an int or a float. Raises `InvalidArgument` if that is not finite."""
        self._add(amount, -amount if is_number(amount) else amount)

    def _add(self, given: float, amount: float) -> None:
        if not is_number(given):
            refuse_amount(self.name, "amount", given, "a finite number")
        if (series := self._series()) is not None:
            series.inc(float(amount))

    def set_function(self, function: Callable[[], float]) -> None:
        """Be what `function` returns whenever `/metrics` is read, instead of what was set.

        It is called in the event loop, so it must be quick; one that fails leaves the series out and a line in the
        log. The labels are those of the scope in which this is called. With several processes behind one scrape it
        tells of the process that is asked. Raises `InvalidArgument` unless it can be called without arguments.
        """
        check_asked("function", function)
        scope = self._scope or _current()
        functions, own = scope.hooks.functions, self._own_values()
        key = (self.name, scope.attached, own)
        if key in functions or len(functions) < LABEL_VALUES_MAX:
            own_labels = dict(zip(self._family.shape.labels, own, strict=True))
            functions[key] = GaugeFunction(scope, own_labels, function)
        else:
            self._family.refuse()

    def get(self) -> float:
        """What was set in this process, in the scope in which it is asked."""
        return self._sample("")


@stable(since="0.1", constructor=False)
class Histogram(_Metric[prometheus_client.Histogram]):
    """How often values fell between bounds, such as durations; `histogram` makes one."""

    __slots__ = ()

    def observe(self, amount: float) -> None:
        """Count `amount`, an int or a float. Raises `InvalidArgument` if that is not finite."""
        if not is_number(amount):
            refuse_amount(self.name, "amount", amount, "a finite number")
        self._series().observe(float(amount))  # type: ignore[union-attr]  # only a gauge leaves something out

    def get_sum(self) -> float:
        """The sum of what this process has observed in the scope in which it is asked."""
        return self._sample("_sum")

    def get_count(self) -> int:
        """How often this process has observed something in the scope in which it is asked."""
        return int(self._sample("_count"))


def _text(value: object) -> str:
    """Return the value as text that can be encoded; a member of an enum that is text is that text."""
    text = str.__str__(value) if isinstance(value, str) else str(value)
    return text.encode("utf-8", "replace").decode()

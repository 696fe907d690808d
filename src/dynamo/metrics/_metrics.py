"""The one entry point: `Metrics`, in the scope of an endpoint or in whichever is current."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import MethodType
from typing import Concatenate, Generic, Literal, ParamSpec, TypeVar, cast, get_args

from dynamo._core.errors import DynamoError, InvalidArgument
from dynamo._core.stability import stable
from dynamo.metrics._checks import check_asked, check_documentation, check_metric_name, checked_buckets, checked_labels
from dynamo.metrics._compat import RuntimeMetrics
from dynamo.metrics._family import Family, Kind, Series_co, Shape
from dynamo.metrics._metric import Counter, Gauge, Histogram
from dynamo.metrics._registry import REGISTRY, Registry
from dynamo.metrics._scope import Scope, current_scope

P = ParamSpec("P")
T = TypeVar("T")
M = TypeVar("M", bound=Counter | Gauge | Histogram)

#: What a gauge says for several processes behind one scrape: each of them, or one number of them all.
AcrossProcesses = Literal["all", "min", "max", "sum"]

#: Upper bounds in seconds, from a millisecond to five minutes.
DEFAULT_BUCKETS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
)  # fmt: skip

#: Callbacks, and texts, of one scope.
CALLBACKS_MAX = 256


class _Anywhere(Generic[P, T]):
    """A method that can also be called on the class: it is then of no scope of its own."""

    def __init__(self, method: Callable[Concatenate[Metrics, P], T]) -> None:
        self.__doc__ = method.__doc__
        self.__wrapped__ = method

    def __get__(self, metrics: Metrics | None, owner: type[Metrics]) -> Callable[P, T]:
        bound: Callable[P, T] = MethodType(self.__wrapped__, owner() if metrics is None else metrics)
        return bound


@stable(since="0.1")
class Metrics(RuntimeMetrics):
    """Makes counters, gauges and histograms with Dynamo's labels attached; `/metrics` of the process shows them.

    `Metrics.counter(...)` makes one whose labels are those of the request in which it is used, or of the process;
    `endpoint.metrics.counter(...)` one whose labels are those of the endpoint wherever it is used, and so do
    `component.metrics`, `namespace.metrics` and `runtime.metrics`. A name is registered once in a process: who
    registers it again gets the same metric, or `InvalidArgument` if its labels or what it is differ.
    """

    def __init__(self, scope: Scope | None = None, registry: Registry = REGISTRY) -> None:
        self._scope = scope
        self._registry = registry

    @_Anywhere
    def counter(self, name: str, documentation: str, labels: Sequence[str] = ()) -> Counter:
        """Return the counter `name`: a number that only goes up, such as requests that came.

        `/metrics` says `_total` after its name. `labels` are the names of its own labels. Raises `InvalidArgument`
        for what cannot be a name, and for a name that is another metric's.
        """
        base = name.removesuffix("_total") if isinstance(name, str) else name
        shape = self._shape(Kind.COUNTER, base, documentation, labels)
        return self._handle(Counter, self._registry.counter(base, documentation, shape))

    @_Anywhere
    def gauge(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str] = (),
        *,
        function: Callable[[], float] | None = None,
        across_processes: AcrossProcesses = "all",
    ) -> Gauge:
        """Return the gauge `name`: a number that goes up and down, such as requests that wait.

        With `function`, which needs a gauge without labels of its own, it is what that returns at each scrape; see
        `Gauge.set_function`. With several processes behind one scrape, `across_processes` says whether `/metrics` has
        the number of each that is alive, with its `pid`, or the `sum`, the `min` or the `max` of them. Raises
        `InvalidArgument` for what cannot be a name, and for a name that is another metric's.
        """
        if across_processes not in get_args(AcrossProcesses):
            raise InvalidArgument(
                f"across_processes={across_processes!r} is not allowed: give one of {get_args(AcrossProcesses)}"
            )
        shape = self._shape(Kind.GAUGE, name, documentation, labels, across_processes=across_processes)
        gauge = self._handle(Gauge, self._registry.gauge(name, documentation, shape))
        if function is not None:
            gauge.set_function(function)
        return gauge

    @_Anywhere
    def histogram(
        self, name: str, documentation: str, labels: Sequence[str] = (), buckets: Sequence[float] = DEFAULT_BUCKETS
    ) -> Histogram:
        """Return the histogram `name`: how often values fell between the upper bounds `buckets`.

        The bounds go up, in the unit of the values; without any they suit durations in seconds, from a millisecond to
        five minutes. Raises `InvalidArgument` for what cannot be a name or a bound, and for a name that is another
        metric's.
        """
        shape = self._shape(Kind.HISTOGRAM, name, documentation, labels, buckets=checked_buckets(buckets))
        return self._handle(Histogram, self._registry.histogram(name, documentation, shape))

    @_Anywhere
    def on_scrape(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` whenever `/metrics` is read, before anything is collected; return what ends that.

        It is called in the event loop, so it must be quick; one that fails costs a line in the log. What it sets has
        the labels of this scope. Raises `InvalidArgument` unless it can be called without waiting.
        """
        check_asked("callback", callback)
        hook = (self._current(), callback)
        return _add(hook[0].hooks.callbacks, hook)

    @_Anywhere
    def add_text(self, text: Callable[[], str | bytes]) -> Callable[[], None]:
        """Show on `/metrics` what `text` returns, too: metrics in Prometheus' text format; return what ends that.

        It is for engines that have metrics of their own. Labels of this scope that a series does not have are
        attached to it. It is called in the event loop at each scrape; a text that cannot be had or read costs a line
        in the log. Raises `InvalidArgument` unless it can be called without waiting.
        """
        check_asked("text", text)
        hook = (self._current(), text)
        return _add(hook[0].hooks.texts, hook)

    @_Anywhere
    def name_model(self, model: str | None) -> None:
        """Attach the label `model` to what is measured in this scope from now on; None attaches none.

        Raises `InvalidArgument` for a name of more than 256 characters.
        """
        self._current().rename(model=model or "")

    def _current(self) -> Scope:
        return current_scope.get() if self._scope is None else self._scope

    def _shape(
        self,
        kind: Kind,
        name: str,
        documentation: str,
        labels: Sequence[str],
        *,
        buckets: tuple[float, ...] = (),
        across_processes: str = "",
    ) -> Shape:
        check_metric_name(name)
        check_documentation(documentation)
        return Shape(kind, checked_labels(labels), buckets, across_processes)

    def _handle(self, kind: Callable[[Family[Series_co], Scope | None], M], family: Family[Series_co]) -> M:
        """Return the metric of a family in this scope, which is made once."""
        handles = self._registry.handles if self._scope is None else self._scope.handles
        metric = handles.get(family)
        if metric is None:
            metric = handles.setdefault(family, kind(family, self._scope))
        return cast("M", metric)


def _add(hooks: list[T], hook: T) -> Callable[[], None]:
    if len(hooks) >= CALLBACKS_MAX:
        raise DynamoError(f"a scope may have {CALLBACKS_MAX} callbacks, and as many texts: let one do what several do")
    hooks.append(hook)

    def remove() -> None:
        if hook in hooks:
            hooks.remove(hook)

    return remove


# Functions, so that their types are written and not inferred.


@stable(since="0.1")
def counter(name: str, documentation: str, labels: Sequence[str] = ()) -> Counter:
    """Return the counter `name` whose labels are those of the request in which it is used: see `Metrics.counter`.

    Raises what that raises.
    """
    return Metrics.counter(name, documentation, labels)


@stable(since="0.1")
def gauge(
    name: str,
    documentation: str,
    labels: Sequence[str] = (),
    *,
    function: Callable[[], float] | None = None,
    across_processes: AcrossProcesses = "all",
) -> Gauge:
    """Return the gauge `name` whose labels are those of the request in which it is used: see `Metrics.gauge`.

    Raises what that raises.
    """
    return Metrics.gauge(name, documentation, labels, function=function, across_processes=across_processes)


@stable(since="0.1")
def histogram(
    name: str, documentation: str, labels: Sequence[str] = (), buckets: Sequence[float] = DEFAULT_BUCKETS
) -> Histogram:
    """Return the histogram `name` whose labels are those of the request in which it is used: see `Metrics.histogram`.

    Raises what that raises.
    """
    return Metrics.histogram(name, documentation, labels, buckets)

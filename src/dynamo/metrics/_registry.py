"""The metrics of a process by their names: a name is registered once, and found again with the same shape."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from prometheus_client import Counter, Gauge, Histogram

from dynamo._core.errors import DynamoError, InvalidArgument
from dynamo.metrics._family import Family, Series_co, Shape
from dynamo.metrics._names import names_on_page
from dynamo.metrics._processes import check_directory
from dynamo.metrics._scope import ATTACHED_LABELS

if TYPE_CHECKING:
    from dynamo.metrics._family import AnyFamily
    from dynamo.metrics._metric import AnyMetric

#: Metrics of one process.
METRICS_MAX = 1024

#: What files say of gauges: a process that is gone has no say in what is now.
_MODES: dict[str, Literal["liveall", "livemin", "livemax", "livesum"]] = {
    "all": "liveall",
    "min": "livemin",
    "max": "livemax",
    "sum": "livesum",
}


class Registry:
    """Every metric that was registered, until the process ends."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._families: dict[str, AnyFamily] = {}
        # Whose each name on the page is.
        self._names: dict[str, AnyFamily] = {}
        #: The metrics that were made for no scope of their own, so that each is made once.
        self.handles: dict[AnyFamily, AnyMetric] = {}

    def families(self) -> list[AnyFamily]:
        """All of them, in the order in which they were registered."""
        return list(self._families.values())

    def counter(self, name: str, documentation: str, shape: Shape) -> Family[Counter]:
        """Return the counter of this name, which is made unless it is there."""
        make = lambda: Counter(name, documentation, _labels(shape), registry=None)  # noqa: E731
        return self._family(name, shape, make)

    def gauge(self, name: str, documentation: str, shape: Shape) -> Family[Gauge]:
        """Return the gauge of this name, which is made unless it is there."""
        mode = _MODES[shape.across_processes]
        make = lambda: Gauge(name, documentation, _labels(shape), registry=None, multiprocess_mode=mode)  # noqa: E731
        return self._family(name, shape, make)

    def histogram(self, name: str, documentation: str, shape: Shape) -> Family[Histogram]:
        """Return the histogram of this name, which is made unless it is there."""
        make = lambda: Histogram(  # noqa: E731
            name, documentation, _labels(shape), registry=None, buckets=shape.buckets
        )
        return self._family(name, shape, make)

    def _family(self, name: str, shape: Shape, make: Callable[[], Series_co]) -> Family[Series_co]:
        with self._lock:
            taken = self._families.get(name)
            if taken is None:
                return self._add(name, shape, make)
            if taken.shape != shape:
                raise InvalidArgument(
                    f"the metric {name} is {taken.shape}, and cannot be {shape} as well: use the one that there is, "
                    "or another name",
                    name=name,
                )
            return taken  # type: ignore[return-value]  # of the same kind

    def _add(self, name: str, shape: Shape, make: Callable[[], Series_co]) -> Family[Series_co]:
        names = names_on_page(name, shape.kind)
        for each in names:
            if (other := self._names.get(each)) is not None:
                raise InvalidArgument(
                    f"the metric {name}, {shape}, would say {each} on /metrics, which the metric {other.name}, "
                    f"{other.shape}, says already: use another name",
                    name=name,
                )
        if len(self._families) >= METRICS_MAX:
            raise DynamoError(
                f"the metric {name} is one too many, of {METRICS_MAX} that a process may have: give those that are "
                "alike a label"
            )
        check_directory()
        family = Family(name, shape, make(), clock=self._clock)
        self._families[name] = family
        self._names |= dict.fromkeys(names, family)
        return family


#: What `counter`, `gauge` and `histogram` register in.
REGISTRY = Registry()


def _labels(shape: Shape) -> tuple[str, ...]:
    return (*ATTACHED_LABELS, *shape.labels)

"""A metric and all its series: one of `prometheus_client`, with the attached labels before its own.

The number of series is bounded. What comes with further label values is counted in one more series, whose own labels
all say `other`, so that sums stay right; a gauge has no sum, so it leaves them out. How often that happens is counted
and, once a minute, logged.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeAlias, TypeVar

from prometheus_client.metrics import MetricWrapperBase

from dynamo.metrics._scope import Attached

AnyFamily: TypeAlias = "Family[MetricWrapperBase]"

logger = logging.getLogger(__name__)

#: Series of one metric in one process: combinations of label values, the attached ones among them.
LABEL_VALUES_MAX = 1000
#: A longer label value is treated as one too many.
LABEL_VALUE_CHARS_MAX = 512
#: What the labels of a series say that stands for all that were too many.
OTHER = "other"
REFUSALS_LOGGED_EVERY_S = 60.0


class Kind(StrEnum):
    """What a metric is."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Shape:
    """What two registrations of a name must agree on."""

    kind: Kind
    labels: tuple[str, ...]
    buckets: tuple[float, ...] = ()
    across_processes: str = ""

    def __str__(self) -> str:
        parts = [f"the labels {', '.join(self.labels)}" if self.labels else "no labels"]
        if self.buckets:
            parts.append(f"the buckets {', '.join(f'{bound:g}' for bound in self.buckets)}")
        if self.across_processes:
            parts.append(f"across_processes={self.across_processes!r}")
        return f"a {self.kind} with {' and '.join(parts)}"


#: A metric of `prometheus_client`.
Series_co = TypeVar("Series_co", bound=MetricWrapperBase, covariant=True)


class Family(Generic[Series_co]):
    """All series of one metric of this process."""

    def __init__(
        self, name: str, shape: Shape, parent: Series_co, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = name
        self.shape = shape
        self.parent = parent
        #: How often something came with a label value too many.
        self.refused: int = 0
        self._clock = clock
        # The mutable state. A series is made by series() and nowhere else.
        self._series: dict[tuple[str, ...], Series_co] = {}
        self._lock = threading.Lock()
        self._logged_at = -REFUSALS_LOGGED_EVERY_S

    def series(self, attached: Attached, own: tuple[str, ...]) -> tuple[Series_co | None, bool]:
        """Return the series of these label values, and whether it is theirs alone; None leaves them out."""
        key = (*attached, *own)
        series = self._series.get(key)
        if series is None:
            with self._lock:
                series = self._series.get(key)
                if series is None:
                    if len(self._series) >= LABEL_VALUES_MAX or max(map(len, key)) > LABEL_VALUE_CHARS_MAX:
                        self.refuse()
                        return self._others(), False
                    series = self._series[key] = self.parent.labels(*key)
        return series, True

    def refuse(self) -> None:
        """Count that something came with a label value too many, and say so once a minute."""
        self.refused += 1
        now = self._clock()
        if now - self._logged_at >= REFUSALS_LOGGED_EVERY_S:
            self._logged_at = now
            logger.warning(
                "the metric %s has been given more than %d combinations of label values, or one of more than %d "
                "characters (%d times): these are %s; use labels with few values",
                self.name,
                LABEL_VALUES_MAX,
                LABEL_VALUE_CHARS_MAX,
                self.refused,
                "left out" if self.shape.kind is Kind.GAUGE else f"counted together as {OTHER!r}",
            )

    def _others(self) -> Series_co | None:
        if self.shape.kind is Kind.GAUGE:
            return None
        return self.parent.labels("", "", "", "", *[OTHER] * len(self.shape.labels))

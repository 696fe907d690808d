"""The metrics of a process: those of its runtime, and those that its components add.

Prometheus' client is imported when somebody prepares to expose them, and not before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from dynamo._core.errors import DynamoError

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from dynamo.runtime._runtime import DistributedRuntime

COLLECTORS_MAX = 1024

#: From what a scraper accepts to all metrics as it likes them, and their content type.
Expose = Callable[[str], tuple[bytes, str]]


class Source(Protocol):
    """Something to be measured: a collector of `prometheus_client`, or a metric of it that is in no registry."""

    def collect(self) -> Iterable[Metric]:
        """Return the metrics as they are now."""


class Metrics:
    """What `/metrics` of a process says."""

    def __init__(self, runtime: DistributedRuntime) -> None:
        self._runtime = runtime
        self._sources: list[Source] = []

    def add(self, source: Source) -> None:
        """Tell of `source`, too, until it is removed.

        A metric whose name another one has is left out, and so are those of a source that fails; the log says so.
        """
        if len(self._sources) >= COLLECTORS_MAX:
            raise DynamoError(f"a process may have {COLLECTORS_MAX} collectors: add one that collects several metrics")
        self._sources.append(source)

    def remove(self, source: Source) -> None:
        """Forget a source; one that is not there is no error."""
        if source in self._sources:
            self._sources.remove(source)

    def prepare(self) -> Expose:
        """Return what exposes all metrics, as text for a scraper that accepts this, and its content type."""
        from prometheus_client.exposition import choose_encoder

        from dynamo.runtime._system_metrics import Everything

        everything = Everything(self._runtime, self._sources)

        def expose(accept: str) -> tuple[bytes, str]:
            encode, content_type = choose_encoder(accept)
            return encode(everything), content_type

        return expose

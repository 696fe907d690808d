"""How a process is: its counters, its metrics and its health, as a runtime tells of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from dynamo._core.address import EndpointId
from dynamo._core.context import CancellationToken
from dynamo.runtime._arguments import check_type
from dynamo.runtime._exposition import Exposition
from dynamo.runtime._health import Health
from dynamo.runtime._measured import Called, Measured

if TYPE_CHECKING:
    from dynamo.metrics._metrics import Metrics
    from dynamo.runtime._runtime import DistributedRuntime
    from dynamo.runtime._served_endpoint import ServedEndpoint


class Observed:
    """Counts, and says whether all is well; a `DistributedRuntime` is one."""

    def __init__(self, shutdown: CancellationToken, served: Callable[[], list[ServedEndpoint]]) -> None:
        self._measured: dict[EndpointId, Measured] = {}
        self._called: dict[EndpointId, Called] = {}
        #: What `/metrics` of this process says; components add what they count.
        self.exposition: Exposition = Exposition(cast("DistributedRuntime", self))
        self._health = Health(shutdown, served)

    @property
    def metrics(self) -> Metrics:
        """Makes metrics of the whole process: counters, gauges and histograms that its `/metrics` shows."""
        return self.exposition.metrics()

    def set_health_status(self, ready: bool) -> None:
        """Say whether this process is ready; without a word it is as soon as it serves an endpoint.

        What is not there, drains, or has a check that is not true is not ready whatever is said here.
        """
        check_type("ready", ready, bool, "True or False")
        self._health.declared = ready

    @property
    def health(self) -> Health:
        """Whether it is alive and ready, and the checks that are asked."""
        return self._health

    def measure(self, id: EndpointId) -> Measured:
        """The counters of an endpoint; they go on when it is closed and served again."""
        return self._measured.setdefault(id, Measured(str(id)))

    def measured(self) -> dict[EndpointId, Measured]:
        """The counters of every endpoint that was served here."""
        return dict(self._measured)

    def measure_calls(self, id: EndpointId) -> Called:
        """The counters of those who call an endpoint from here."""
        return self._called.setdefault(id, Called())

    def called(self) -> dict[EndpointId, Called]:
        """The counters of every endpoint that was called from here."""
        return dict(self._called)

"""What `/metrics` of a process says: what its runtime counts, what `dynamo.metrics` has, and what components add.

Prometheus' client is imported when somebody prepares to expose them, or makes a metric, and not before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from dynamo._core.address import EndpointId
from dynamo._core.errors import DynamoError
from dynamo.metrics._scope import PROCESS, Scope, name_process
from dynamo.runtime._arguments import wrong_type

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from dynamo.metrics._metrics import Metrics
    from dynamo.runtime._runtime import DistributedRuntime

COLLECTORS_MAX = 1024
#: Namespaces, components and endpoints whose metrics are asked for.
SCOPES_MAX = 10_000

#: From what a scraper accepts to all metrics as it likes them, and their content type.
Expose = Callable[[str], tuple[bytes, str]]


class Source(Protocol):
    """Something to be measured: a collector of `prometheus_client`, or a metric of it that is in no registry."""

    def collect(self) -> Iterable[Metric]:
        """Return the metrics as they are now."""


class Exposition:
    """All that is exposed for one runtime, and what its endpoints are called there."""

    def __init__(self, runtime: DistributedRuntime) -> None:
        self._runtime = runtime
        # The mutable state: what was added, and the labels of what was asked for.
        self._sources: list[Source] = []
        self._scopes: dict[tuple[str, str, str], Scope] = {}

    def add(self, source: Source) -> None:
        """Tell of `source`, too, until it is removed.

        A metric whose name another one has is left out, and so is one that cannot be written, and so are those of a
        source that fails; the log says so. Raises TypeError for what cannot be collected from.
        """
        if not callable(getattr(source, "collect", None)):
            raise wrong_type("source", source, "something with a collect(), such as a collector of prometheus_client")
        if len(self._sources) >= COLLECTORS_MAX:
            raise DynamoError(f"a process may have {COLLECTORS_MAX} collectors: add one that collects several metrics")
        self._sources.append(source)

    def remove(self, source: Source) -> None:
        """Forget a source; one that is not there is no error."""
        if source in self._sources:
            self._sources.remove(source)

    def name_process(self, namespace: str, component: str) -> None:
        """Say what this process is: what is measured outside of requests has these labels, in all its threads."""
        name_process(namespace, component)
        self.scope().rename(namespace=namespace, component=component)

    def scope(self, namespace: str = "", component: str = "", endpoint: str = "") -> Scope:
        """The labels of an endpoint, of a component, of a namespace, or of the process; the same one each time."""
        key = (namespace, component, endpoint)
        scope = self._scopes.get(key)
        if scope is None:
            if len(self._scopes) >= SCOPES_MAX:
                raise DynamoError(f"a process may have metrics of {SCOPES_MAX} endpoints, and this would be one more")
            attached = PROCESS.attached if not any(key) else (*key, "")
            scope = self._scopes[key] = Scope(*attached)
        return scope

    def scope_of(self, id: EndpointId) -> Scope:
        """The labels of an endpoint; the same one each time."""
        return self.scope(id.namespace, id.component, id.endpoint)

    def scopes(self) -> list[Scope]:
        """Everything that has hooks to ask at a scrape, that of the whole process among them."""
        return [PROCESS, *self._scopes.values()]

    def metrics(self, namespace: str = "", component: str = "", endpoint: str = "") -> Metrics:
        """What makes metrics that have the labels of this scope."""
        from dynamo.metrics._metrics import Metrics

        return Metrics(self.scope(namespace, component, endpoint))

    def prepare(self) -> Expose:
        """Return what exposes all metrics, as text for a scraper that accepts this, and its content type."""
        from prometheus_client.exposition import choose_encoder

        from dynamo.runtime._system_metrics import Everything

        everything = Everything(self._runtime, self._sources, self.scopes)

        def expose(accept: str) -> tuple[bytes, str]:
            encode, content_type = choose_encoder(accept)
            return everything.encoded(encode), content_type

        return expose

"""Where something is measured: the labels that are attached to a metric by themselves.

A scope is a namespace, a component, an endpoint and a model, or as much of these as there is. The runtime enters the
scope of an endpoint for each of its requests, so a metric of a module knows whose request it counts. Outside of
requests the scope is that of the process. The names of a scope may come later than the metrics in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dynamo._core.address import check_name
from dynamo._core.errors import InvalidArgument
from dynamo._core.stability import beta

if TYPE_CHECKING:
    from dynamo.metrics._family import AnyFamily
    from dynamo.metrics._metric import AnyMetric

#: Attached to every metric, in this order; those without a value are not shown.
ATTACHED_LABELS = ("dynamo_namespace", "dynamo_component", "dynamo_endpoint", "model")
MODEL_CHARS_MAX = 256

#: The values of `ATTACHED_LABELS`; empty where there is none.
Attached = tuple[str, str, str, str]


@dataclass(frozen=True, slots=True)
class GaugeFunction:
    """What computes one series of a gauge whenever it is asked for."""

    scope: Scope
    own_labels: dict[str, str]
    function: Callable[[], float]


@dataclass(slots=True)
class Hooks:
    """What is asked at each scrape, for one or more scopes."""

    #: Called before anything is collected, each in the scope in which it was added.
    callbacks: list[tuple[Scope, Callable[[], None]]] = field(default_factory=list)
    #: By the name of the metric, what is attached, and its own label values.
    functions: dict[tuple[str, Attached, tuple[str, ...]], GaugeFunction] = field(default_factory=dict)
    #: Each returns metrics in Prometheus' text format.
    texts: list[tuple[Scope, Callable[[], str | bytes]]] = field(default_factory=list)


class Scope:
    """The labels that a metric gets here, and what is asked when they are read."""

    __slots__ = ("attached", "found", "handles", "hooks")

    def __init__(
        self, namespace: str = "", component: str = "", endpoint: str = "", model: str = "", hooks: Hooks | None = None
    ) -> None:
        self.attached: Attached = (namespace, component, endpoint, model)
        #: The series of each metric that was used here with these labels: one of `prometheus_client`.
        self.found: dict[object, Any] = {}
        self.hooks: Hooks = Hooks() if hooks is None else hooks
        #: The metrics that were made for this scope, so that each is made once.
        self.handles: dict[AnyFamily, AnyMetric] = {}

    def rename(
        self,
        *,
        namespace: str | None = None,
        component: str | None = None,
        endpoint: str | None = None,
        model: str | None = None,
    ) -> None:
        """Change some of the names; an empty one is none. Raises `InvalidArgument` for what cannot be a name."""
        self.attached = _renamed(self.attached, namespace, component, endpoint, model)
        self.found = {}  # after the labels: who finds a series meanwhile puts it into the one before


#: The scope of whatever belongs to no request.
PROCESS = Scope()

current_scope: ContextVar[Scope] = ContextVar("current_scope", default=PROCESS)


@beta(since="0.1")
@contextmanager
def scope(
    *,
    namespace: str | None = None,
    component: str | None = None,
    endpoint: str | None = None,
    model: str | None = None,
) -> Iterator[None]:
    """Attach these labels to what is measured within, instead of those of the scope around it.

    What is not given stays as it is; an empty name is none. It concerns this task, the tasks that it starts, and the
    threads that have its context. Raises `InvalidArgument` for what cannot be a name.

    ```python
    with scope(model="llama"):
        tokens.inc(12)
    ```
    """
    around = current_scope.get()
    attached = _renamed(around.attached, namespace, component, endpoint, model)
    token = current_scope.set(Scope(*attached, hooks=around.hooks))
    try:
        yield
    finally:
        current_scope.reset(token)


def name_process(namespace: str, component: str) -> None:
    """Say what the whole process is: what is measured outside of requests, in any thread, gets these labels."""
    PROCESS.rename(namespace=namespace, component=component)


def _renamed(
    attached: Attached, namespace: str | None, component: str | None, endpoint: str | None, model: str | None
) -> Attached:
    before = dict(zip(("namespace", "component", "endpoint", "model"), attached, strict=True))
    now = {"namespace": namespace, "component": component, "endpoint": endpoint, "model": model}
    for kind, name in now.items():
        if name is not None and not isinstance(name, str):
            raise InvalidArgument(f"{kind}={name!r:.300} is not allowed: give a str, or None", parameter=kind)
        if name and kind != "model":
            check_name(kind, name)
    if model is not None and len(model) > MODEL_CHARS_MAX:
        raise InvalidArgument(
            f"model={model[:300]!r} is {len(model)} characters long: at most {MODEL_CHARS_MAX} are allowed", model=model
        )
    if model is not None and not can_be_encoded(model):
        raise InvalidArgument(f"model={model!r} is not allowed: give text that UTF-8 can say", parameter="model")
    one, two, three, four = (before[name] if value is None else value for name, value in now.items())
    return (one, two, three, four)


def can_be_encoded(text: str) -> bool:
    """Whether no half of a surrogate pair is in it, which would cost a scraper the whole page."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True

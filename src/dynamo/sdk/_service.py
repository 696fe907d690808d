"""`@service`: a class that becomes processes.

Decorating records the class, its options, its dependencies and its endpoints, and starts nothing. The
name of the class is then a `Service`; the class itself is `.inner`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Generic, TypeVar, Unpack, overload

from dynamo._core.errors import ConfigError
from dynamo.sdk._endpoints import EndpointSpec, collect_endpoints
from dynamo.sdk._hooks import HookKind, collect_hooks
from dynamo.sdk._options import (
    DynamoConfig,
    DynamoDict,
    EnvironmentVariable,
    ResourcesDict,
    ServiceOptions,
    TrafficDict,
    parse_options,
    unknown_name,
)
from dynamo.sdk._proxy import ServiceProxy
from dynamo.sdk._sections import SERVICE_ARGS
from dynamo.sdk.lib.config import ServiceConfig

if TYPE_CHECKING:
    from typing import TypedDict

    from fastapi import FastAPI

    from dynamo.runtime import DistributedRuntime
    from dynamo.sdk._depends import Dependency

    class ServiceKeywords(TypedDict, total=False):
        """The keywords of `@service`."""

        dynamo: DynamoDict | DynamoConfig
        resources: ResourcesDict
        workers: int
        image: str
        envs: list[EnvironmentVariable] | dict[str, str]
        labels: dict[str, str]
        traffic: TrafficDict
        app: FastAPI


T_co = TypeVar("T_co", covariant=True)
Decorated = TypeVar("Decorated")

_MARK = "__dynamo_service__"
_KEYWORDS = [*ServiceOptions.model_fields, "app"]


class Service(Generic[T_co]):
    """A class with its options, its endpoints and the services that it calls."""

    def __init__(self, inner: type[T_co], options: ServiceOptions, app: FastAPI | None = None) -> None:
        self.inner = inner
        self.name = inner.__name__
        self.app = app
        self.options = _configured(self.name, options)
        self.endpoints = collect_endpoints(inner)
        self.dependencies = _dependencies(inner)
        # The mutable state: which edges were linked and to whom, and in a running process the proxies.
        self._links: dict[str, Service[object]] = {}
        self._was_linked = False
        self._proxies: dict[str, ServiceProxy] = {}
        setattr(inner, _MARK, self)

    def __call__(self, *args: object, **kwargs: object) -> T_co:
        """Build an instance of the class."""
        return self.inner(*args, **kwargs)

    def __getattr__(self, name: str) -> Dependency[object]:
        dependencies: dict[str, Dependency[object]] = self.__dict__.get("dependencies", {})
        if name in dependencies:
            return dependencies[name]
        raise AttributeError(f"service {self.__dict__.get('name')!r} has no attribute {name!r}")

    def __mro_entries__(self, bases: tuple[object, ...]) -> tuple[type]:
        """Let a class inherit from a service: from the class inside it."""
        return (self.inner,)

    def __repr__(self) -> str:
        return f"<service {self.name}>"

    # What it is.

    def dynamo_address(self) -> tuple[str, str]:
        """The namespace and the component name under which the service is found."""
        if not self.options.dynamo.enabled:
            raise ValueError(
                f"Service {self.name!r} is not configured as a Dynamo component: its dynamo.enabled is false"
            )
        return self.options.dynamo.namespace, self.options.dynamo.name or self.name

    def get_endpoint(self, name: str) -> EndpointSpec:
        """Return one endpoint; ValueError names those that there are."""
        if name not in self.endpoints:
            raise ValueError(f"No endpoint {name!r} found on service {self.name!r}; it has {list(self.endpoints)}")
        return self.endpoints[name]

    @property
    def plane_endpoints(self) -> list[EndpointSpec]:
        """The endpoints that other services can call."""
        return [spec for spec in self.endpoints.values() if spec.on_plane]

    @property
    def has_http(self) -> bool:
        """Whether its workers serve HTTP."""
        return self.app is not None or any(spec.on_http for spec in self.endpoints.values())

    def hooks(self, kind: HookKind) -> list[str]:
        """The names of its lifecycle hooks of one kind, in the order in which they run."""
        return collect_hooks(self.inner, kind)

    # Edges.

    def link(self, other: Service[Decorated]) -> Service[Decorated]:
        """Keep the edge to `other`, and return `other`.

        A service that takes part in any link keeps only the edges that were linked. Where the edge leads
        to a base class of `other`, it leads to `other` from now on.
        """
        if not isinstance(other, Service):
            raise ValueError(f"link must be passed a Service, got {type(other).__name__}")
        matches = [name for name, dependency in self.dependencies.items() if dependency.on is other] or [
            name for name, dependency in self.dependencies.items() if issubclass(other.inner, dependency.on.inner)
        ]
        if not matches:
            raise ValueError(f"{other.name} does not fulfill any dependencies required by {self.name}")
        if len(matches) > 1:
            raise ValueError(f"{other.name} fulfills multiple dependencies required by {self.name}: {matches}")
        self._links[matches[0]] = other
        self._was_linked = other._was_linked = True
        return other

    def edges(self) -> dict[str, Service[object]]:
        """The services that it calls, by the name of the attribute, without the edges that linking removed."""
        if self._was_linked:
            return {name: self._links[name] for name in self.dependencies if name in self._links}
        return {name: dependency.on for name, dependency in self.dependencies.items()}

    # In a running process.

    def bind(self, runtime: DistributedRuntime) -> list[ServiceProxy]:
        """Make the edges callable."""
        self._proxies = {name: ServiceProxy(target, runtime) for name, target in self.edges().items()}
        for name, proxy in self._proxies.items():
            self.dependencies[name].caller = proxy
        return list(self._proxies.values())

    def unbind(self) -> None:
        """Undo `bind`."""
        for name in self._proxies:
            self.dependencies[name].caller = None
        self._proxies = {}

    def resolve(self, name: str) -> ServiceProxy | None:
        """What the attribute `name` of an instance is: a proxy, or None where the edge was removed."""
        if name not in self.edges():
            return None
        if name not in self._proxies:
            raise RuntimeError(
                f"{self.name}.{name} works in a running service; in a test, set the attribute of the instance to a fake"
            )
        return self._proxies[name]


@overload
def service_of(decorated: Service[Decorated]) -> Service[Decorated]: ...
@overload
def service_of(decorated: type[Decorated]) -> Service[Decorated]: ...
def service_of(decorated: Service[Decorated] | type[Decorated]) -> Service[Decorated]:
    """Return the service of a decorated class, given either. TypeError if it is not decorated.

    A type checker takes the name of a decorated class for the class: `service_of(Worker).link(...)` is
    `Worker.link(...)` with types.
    """
    if isinstance(decorated, Service):
        return decorated
    mark = getattr(decorated, _MARK, None) if isinstance(decorated, type) else None
    if not isinstance(mark, Service):
        raise TypeError(f"{decorated!r} is not decorated with @service()")
    return mark


@overload
def service(cls: type[Decorated], /) -> Service[Decorated]: ...
@overload
def service(**keywords: Unpack[ServiceKeywords]) -> Callable[[type[Decorated]], Service[Decorated]]: ...
def service(
    cls: type[Decorated] | None = None, /, **keywords: object
) -> Service[Decorated] | Callable[[type[Decorated]], Service[Decorated]]:
    """Make a service of a class.

    `dynamo` names it, `resources` and `workers` size it, `envs` are set in its workers, `image` and
    `labels` serve deployment, `traffic` limits calls to it, and `app` is its HTTP application. All of
    them but `app` can be overridden by configuration, under `ServiceArgs`.
    """
    app = keywords.pop("app", None)
    options = _declared(keywords)
    _check_app(app)

    def decorate(inner: type[Decorated]) -> Service[Decorated]:
        if isinstance(inner, Service):
            raise TypeError("service() decorator can only be applied once")
        if not isinstance(inner, type):
            raise TypeError(f"service() decorates a class, got {inner!r}")
        return Service(inner, options, app)  # type: ignore[arg-type]

    return decorate if cls is None else decorate(cls)


def _declared(keywords: Mapping[str, object]) -> ServiceOptions:
    for keyword in keywords:
        if keyword not in _KEYWORDS:
            raise TypeError(f"service(): {unknown_name('keyword', keyword, _KEYWORDS)}")
    raw = {
        name: value.model_dump(exclude_unset=True) if isinstance(value, DynamoConfig) else value
        for name, value in keywords.items()
    }
    try:
        return parse_options("service()", raw)
    except ConfigError as error:
        raise TypeError(error.message) from None


def _configured(name: str, declared: ServiceOptions) -> ServiceOptions:
    """The options with what the configuration of this process overrides."""
    override = ServiceConfig.get_instance().get(name, {}).get(SERVICE_ARGS)
    if override is None:
        return declared
    if not isinstance(override, dict):
        raise ConfigError(f"configuration: {name}.{SERVICE_ARGS} must be a mapping")
    return declared.overridden_by(parse_options(f"configuration: {name}.{SERVICE_ARGS}", override))


def _check_app(app: object) -> None:
    if app is None:
        return
    from fastapi import FastAPI

    if not isinstance(app, FastAPI):
        raise TypeError(f"service(): app must be a FastAPI application, got {type(app).__name__}")


def _dependencies(inner: type) -> dict[str, Dependency[object]]:
    from dynamo.sdk._depends import Dependency

    found: dict[str, Dependency[object]] = {}
    for base in reversed(inner.__mro__):
        for name, value in vars(base).items():
            if isinstance(value, Dependency):
                found[name] = value
            else:
                found.pop(name, None)
    return found

"""`@service`: a class that becomes processes.

Decorating records the class, its options, its dependencies and its endpoints, and starts nothing. The
name of the class is then a `Service`; the class itself is `.inner`.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar, Union, Unpack, overload
from weakref import WeakSet

from dynamo._core.stability import stable
from dynamo.sdk._declaration import configured, declared
from dynamo.sdk._endpoints import EndpointSpec, collect_endpoints
from dynamo.sdk._hooks import HookKind, collect_hooks
from dynamo.sdk._interface import abstract_endpoints, check_interfaces, is_interface
from dynamo.sdk._options import ServiceOptions
from dynamo.sdk._proxy import ServiceProxy
from dynamo.sdk._runner_map import external_services

if TYPE_CHECKING:
    from fastapi import FastAPI

    from dynamo.runtime import DistributedRuntime
    from dynamo.sdk._declaration import ServiceKeywords
    from dynamo.sdk._depends import Dependency


T_co = TypeVar("T_co", covariant=True)
Decorated = TypeVar("Decorated")

_MARK = "__dynamo_service__"


@stable(since="0.1", constructor=False)
class Service(Generic[T_co]):
    """A class with its options, its endpoints and the services that it calls.

    One of an interface stands for the services that implement it, until one of them is linked. It can be
    depended on, but not served. `service` makes one; nobody else need.
    """

    def __init__(self, inner: type[T_co], options: ServiceOptions, app: FastAPI | None = None) -> None:
        functools.update_wrapper(self, inner, updated=())
        self.inner = inner
        self.name: str = inner.__name__
        self.app = app
        self.options: ServiceOptions = configured(self.name, options)
        self.is_interface: bool = is_interface(inner)
        self.endpoints: dict[str, EndpointSpec] = abstract_endpoints(inner) | collect_endpoints(inner)
        self.dependencies: dict[str, Dependency[object]] = _dependencies(inner)
        # The mutable state: which edges were linked and to whom, and in a running process the proxies.
        self._links: dict[str, Service[object]] = {}
        self._was_linked = False
        self._proxies: dict[str, ServiceProxy] = {}
        setattr(inner, _MARK, self)

    def __call__(self, *args: object, **kwargs: object) -> T_co:
        """Build an instance of the class."""
        return self.inner(*args, **kwargs)

    def __getattr__(self, name: str) -> object:
        """Return a dependency, or what the class has under this name."""
        dependencies: dict[str, Dependency[object]] = self.__dict__.get("dependencies", {})
        if name in dependencies:
            return dependencies[name]
        if not name.startswith("__") and hasattr(self.__dict__.get("inner"), name):
            return getattr(self.inner, name)
        advice = "; @service must be the outermost decorator" if name == "__mro__" else ""
        raise AttributeError(f"service {self.__dict__.get('name')!r} has no attribute {name!r}{advice}")

    def __setattr__(self, name: str, value: object) -> None:
        from dynamo.sdk._depends import Dependency

        if isinstance(value, Dependency):
            raise TypeError(
                f"{self.name}.{name}: depends() stands in the body of a class; what is set later is not started"
            )
        object.__setattr__(self, name, value)

    # To a type checker the name of a decorated class is the class: what can be done with one works here, too.

    def __mro_entries__(self, bases: tuple[object, ...]) -> tuple[type]:
        """Let a class inherit from a service: from the class inside it."""
        return (self.inner,)

    def __getitem__(self, parameters: object) -> Service[T_co]:
        """Take the parameters of a generic class, which mean nothing when it runs."""
        return self

    @property
    def __bases__(self) -> tuple[type]:
        return (self.inner,)

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, self.inner)

    def __subclasscheck__(self, subclass: object) -> bool:
        inner = subclass.inner if isinstance(subclass, Service) else subclass
        return isinstance(inner, type) and issubclass(inner, self.inner)

    def __or__(self, other: object) -> object:
        return Union[self.inner, other]  # noqa: UP007 - of values, not of types

    def __ror__(self, other: object) -> object:
        return Union[other, self.inner]  # noqa: UP007

    def __repr__(self) -> str:
        return f"<service {self.name}>"

    # What it is.

    def dynamo_address(self) -> tuple[str, str]:
        """The namespace and the component name under which the service is found.

        That of a service which runs elsewhere is the one that `--depends` gave. Raises ValueError if it has none.
        """
        if address := external_services(os.environ).get(self.name):
            return address
        if self.is_interface:
            raise ValueError(f"Service {self.name!r} has no address: it is an interface; link a service to it")
        if not self.options.dynamo.enabled:
            raise ValueError(
                f"Service {self.name!r} is not configured as a Dynamo component: its dynamo.enabled is false"
            )
        return self.options.dynamo.namespace, self.options.dynamo.name or self.name

    def get_endpoint(self, name: str) -> EndpointSpec:
        """Return one endpoint; a ValueError names those that there are."""
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
        """The names of its lifecycle hooks of one kind, in the order in which they run.

        Raises ValueError for a kind that there is not.
        """
        if kind not in list(HookKind):
            raise ValueError(f"kind {kind!r} is none of {', '.join(HookKind)}")
        return collect_hooks(self.inner, kind)

    # Edges.

    def link(self, other: Service[Decorated] | type[Decorated]) -> Service[Decorated]:
        """Keep the edge to `other`, and return `other`.

        A service that takes part in any link keeps only the edges that were linked. Where the edge leads
        to an interface or a base class of `other`, it leads to `other` from now on. Raises ValueError if `other`
        is no service, or if none of the dependencies, or more than one, is meant for it.
        """
        try:
            target = service_of(other)
        except TypeError:
            got = f"{other.__name__}, a class without @service" if isinstance(other, type) else type(other).__name__
            raise ValueError(f"link must be passed a Service, got {got}") from None
        self._links[self._dependency_for(target)] = target
        self._was_linked = target._was_linked = True
        linked_services.update((self, target))
        return target

    def _dependency_for(self, target: Service[object]) -> str:
        """The one dependency that `target` is meant for: by its own name, or else as a subclass."""
        matches = [name for name, dependency in self.dependencies.items() if dependency.on is target] or [
            name for name, dependency in self.dependencies.items() if issubclass(target.inner, dependency.on.inner)
        ]
        if not matches:
            raise ValueError(f"{target.name} does not fulfill any dependencies required by {self.name}")
        if len(matches) > 1:
            raise ValueError(f"{target.name} fulfills multiple dependencies required by {self.name}: {matches}")
        return matches[0]

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
        """What the attribute `name` of an instance is: a proxy, or None where the edge was removed.

        Raises RuntimeError in a process in which the service does not run.
        """
        proxy = self._proxies.get(name)  # first, as it is asked for with every call
        if proxy is None and name in self.dependencies and name not in self.edges():
            return None
        if proxy is None:
            raise RuntimeError(
                f"{self.name}.{name} works in a running service; in a test, set the attribute of the instance to a fake"
            )
        return proxy


#: The services that took part in a link.
linked_services: WeakSet[Service[object]] = WeakSet()


@overload
def service_of(decorated: Service[Decorated]) -> Service[Decorated]: ...
@overload
def service_of(decorated: type[Decorated]) -> Service[Decorated]: ...
@overload
def service_of(decorated: Service[Decorated] | type[Decorated]) -> Service[Decorated]: ...
@stable(since="0.1")
def service_of(decorated: Service[Decorated] | type[Decorated]) -> Service[Decorated]:
    """Return the service of a decorated class, given either. Raises TypeError if it is not decorated.

    A type checker takes the name of a decorated class for the class: `service_of(Worker).link(...)` is
    `Worker.link(...)` with types. An interface has one service, which stands for those that implement it.
    """
    if isinstance(decorated, Service):
        return decorated
    mark = vars(decorated).get(_MARK) if isinstance(decorated, type) else None
    if isinstance(mark, Service):
        return mark
    if isinstance(decorated, type) and is_interface(decorated):
        return Service(decorated, ServiceOptions())
    raise TypeError(f"{decorated!r} is not decorated with @service()")


def nearest_service(cls: type) -> Service[object]:
    """Return the service of a class, or of the first of its bases that is decorated. TypeError if none is."""
    return service_of(next((base for base in cls.__mro__ if _MARK in vars(base)), cls))


@overload
def service(cls: type[Decorated], /) -> Service[Decorated]: ...
@overload
def service(**keywords: Unpack[ServiceKeywords]) -> Callable[[type[Decorated]], Service[Decorated]]: ...
@stable(since="0.1")
def service(
    cls: type[Decorated] | None = None, /, **keywords: object
) -> Service[Decorated] | Callable[[type[Decorated]], Service[Decorated]]:
    """Make a service of a class.

    - `dynamo`: how it appears in the system. It is the component `name` (the name of the class) in `namespace`
      ("default"), unless `enabled` (True) is false; `custom_lease` gives it a lease of its own, whose `ttl` is in
      seconds (1), and `component_type` means something to deployment only.
    - `resources`: what one worker needs: `gpu`s, a number of them or a share of one; `cpu` in cores, or thousandths
      such as "300m"; `memory` in bytes, with a unit such as "20Gi".
    - `workers`: how many processes it becomes (1), up to 1024; "cpu_count" is one per processor.
    - `envs`: variables that are set in its workers. `image` and `labels` serve deployment.
    - `traffic`: its `timeout` is how many seconds a call through `depends` may take; without it there is no limit.
    - `app`: its HTTP application, of FastAPI.

    All of them but `app` can be overridden by configuration, under `ServiceArgs`. Raises TypeError for an option
    that makes no sense, for what is no class, for one that is decorated already, and for one that does not
    implement the interfaces that it derives from.
    """
    options, app = declared(keywords)

    def decorate(inner: type[Decorated]) -> Service[Decorated]:
        if isinstance(inner, Service):
            raise TypeError("service() decorator can only be applied once")
        if not isinstance(inner, type):
            raise TypeError(f"service() decorates a class, got {inner!r}")
        check_interfaces(inner)
        return Service(inner, options, app)

    return decorate if cls is None else decorate(cls)


def _dependencies(inner: type) -> dict[str, Dependency[object]]:
    from dynamo.sdk._depends import Dependency

    found: dict[str, Dependency[object]] = {}
    for base in reversed(inner.__mro__):
        for name, value in vars(base).items():
            if isinstance(value, Dependency):
                found[name] = value
            else:
                found.pop(name, None)
    for name, dependency in found.items():
        dependency.name = dependency.name or name  # it may have been put on the class after its body
        if dependency.name != name:
            raise TypeError(
                f"{inner.__name__}.{name} is the same depends({dependency.on.name}) as another attribute, "
                f"{dependency.name}; write depends({dependency.on.name}) for each"
            )
    return found

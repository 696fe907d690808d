"""`depends`: an edge of the graph, and in a running service a client of the other end."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Generic, TypeVar, cast, get_origin, overload

from dynamo._core.stability import stable
from dynamo.sdk._interface import abstract_endpoints
from dynamo.sdk._service import Service, nearest_service, service_of

if TYPE_CHECKING:
    from dynamo.runtime import Client
    from dynamo.sdk._proxy import ServiceProxy

T = TypeVar("T")

#: Keywords of deployments that are reached by their address, which have no meaning here.
_REMOTE = ("url", "deployment", "cluster")
_EXPECTS = "depends() expects a class decorated with @service()"


class Dependency(Generic[T]):
    """A class attribute that says which service this one calls.

    On an instance it is a proxy of the other service, or None where the edge was removed by linking. An
    instance may set the attribute to something else: a fake, in a test.
    """

    def __init__(self, on: Service[T]) -> None:
        self.on: Service[object] = on
        self.name: str = ""
        #: The proxy, in a process that runs the service which has the dependency.
        self.caller: ServiceProxy | None = None

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = self.name or name  # a second one is told when the class is decorated

    if not TYPE_CHECKING:  # which knows that there is nothing else

        def __getattr__(self, name: str) -> object:
            on = getattr(self.__dict__.get("on"), "name", "...")  # not there yet in a copy that is being made
            raise AttributeError(
                f"depends({on}) has no attribute {name!r}: it stands in the body of a class, and is called through "
                "an instance of that class"
            )

    @overload
    def __get__(self, instance: None, owner: type) -> Dependency[T]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object | None, owner: type) -> Dependency[T] | T:
        if instance is None:
            return self
        # To a type checker the proxy is an instance of the other class: it has the same methods.
        return cast(T, nearest_service(owner).resolve(self.name))

    async def get_endpoint(self, name: str) -> Client:
        """Return the client of an endpoint of the other service, once one of its workers serves it.

        Raises ValueError in a process in which the service that has the dependency does not run, AttributeError if the
        other service has no such endpoint, and `DeadlineExceeded` if nobody serves it in time.
        """
        if self.caller is None:
            raise ValueError(f"Runtime not set for the dependency on {self.on.name}: its service does not run here")
        return await self.caller.get_endpoint(name)


@overload
def depends(on: Service[T]) -> Dependency[T]: ...
@overload
def depends(on: type[T]) -> Dependency[T]: ...
@stable(since="0.1")
def depends(on: Service[T] | type[T] | None = None, **remote: object) -> Dependency[T]:
    """Declare that the service calls `on`, another class decorated with `@service`, or an interface.

    Which service answers for an interface is decided by `.link()`. Raises TypeError for anything else, and for
    the keywords by which BentoML names a remote deployment.
    """
    for keyword in remote:
        if keyword not in _REMOTE:
            raise TypeError(f"depends() got an unexpected keyword argument {keyword!r}; write depends(SomeService)")
    if given := [keyword for keyword, value in remote.items() if value is not None]:
        raise TypeError(
            f"depends(): {given[0]} names a remote deployment; write depends(SomeService), "
            "and serve with --depends SomeService=dynamo://NAMESPACE/COMPONENT if it runs elsewhere"
        )
    named = get_origin(on) or on  # without the parameters of a generic interface
    if isinstance(named, Service | type):
        try:
            return Dependency(service_of(named))
        except TypeError:
            is_bare = isinstance(named, type) and abstract_endpoints(named)
            advice = "; derive it from AbstractService to make it an interface" if is_bare else ""
            raise TypeError(f"{_EXPECTS}, got {named.__name__}{advice}") from None
    if isinstance(on, ModuleType):
        name = on.__name__.rpartition(".")[2]
        raise TypeError(f"{_EXPECTS}, got the module {on.__name__}; write: from {on.__name__} import {name}")
    raise TypeError(f"{_EXPECTS}, got {on!r}")

"""`depends`: an edge of the graph, and in a running service a client of the other end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar, cast, overload

from dynamo.sdk._service import Service, service_of

if TYPE_CHECKING:
    from dynamo.runtime import Client
    from dynamo.sdk._proxy import ServiceProxy

T = TypeVar("T")


class Dependency(Generic[T]):
    """A class attribute that says which service this one calls.

    On an instance it is a proxy of the other service, or None where the edge was removed by linking. An
    instance may set the attribute to something else: a fake, in a test.
    """

    def __init__(self, on: Service[T]) -> None:
        self.on: Service[object] = on
        self._name = ""
        #: The proxy, in a process that runs the service which has the dependency.
        self.caller: ServiceProxy | None = None

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Dependency[T]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object | None, owner: type) -> Dependency[T] | T:
        if instance is None:
            return self
        # To a type checker the proxy is an instance of the other class: it has the same methods.
        return cast(T, service_of(owner).resolve(self._name))

    async def get_endpoint(self, name: str) -> Client:
        """Return the client of an endpoint of the other service; only in a process that calls it."""
        if self.caller is None:
            raise ValueError(f"Runtime not set for the dependency on {self.on.name}: its service does not run here")
        return await self.caller.get_endpoint(name)


@overload
def depends(on: Service[T]) -> Dependency[T]: ...
@overload
def depends(on: type[T]) -> Dependency[T]: ...
def depends(on: Service[T] | type[T]) -> Dependency[T]:
    """Declare that the service calls `on`, another class decorated with `@service`."""
    try:
        return Dependency(service_of(on))
    except TypeError:
        got = getattr(on, "__name__", repr(on))
        raise TypeError(f"depends() expects a class decorated with @service(), got {got}") from None

"""Interfaces: what a service can be asked, without saying which service answers.

An interface is a subclass of `AbstractService` in which methods are marked with `abstract_endpoint`. A
service that derives from it gives each of them a body and marks it with `@endpoint`. Another service says
`depends(Interface)`, and the graph decides with `.link()` who answers.

A type checker wants an abstract method to have a body, too: write `raise NotImplementedError`. One that is
answered by a stream is declared with a plain `def` that returns `AsyncIterator[...]`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, overload

from dynamo._core.address import check_name
from dynamo._core.errors import InvalidArgument
from dynamo._core.stability import stable
from dynamo.sdk._endpoints import DynamoTransport, EndpointSpec, collect_endpoints, marked

_MARK = "__dynamo_abstract_endpoint__"

Method = TypeVar("Method", bound=Callable[..., object])


@dataclass(frozen=True, slots=True)
class _Mark:
    name: str | None


@stable(since="0.1")
class AbstractService:
    """What an interface derives from. A class in which abstract endpoints are left cannot be instantiated."""

    def __init_subclass__(cls, **keywords: object) -> None:
        super().__init_subclass__(**keywords)
        if names := ", ".join(abstract_endpoints(cls)):
            # Python's own mechanism refuses to build it, and shows this text as the name of what is missing.
            advice = f"{names} (an interface: link a service that implements it, or build an instance of a subclass)"
            type.__setattr__(cls, "__abstractmethods__", frozenset({advice}))


AbstractDynamoService = AbstractService


@overload
def abstract_endpoint(name: Method, /) -> Method: ...
@overload
def abstract_endpoint(name: str | None = None) -> Callable[[Method], Method]: ...
@stable(since="0.1")
def abstract_endpoint(name: Method | str | None = None) -> Method | Callable[[Method], Method]:
    """Mark a method of an interface that every service of the interface must have as an endpoint, under this name.

    Without a name it is the method's. Raises TypeError for what is no method, or a name that is none.
    """
    if isinstance(name, str):
        try:
            check_name("endpoint name", name)
        except InvalidArgument as error:
            raise TypeError(f"abstract_endpoint(): {error.message}") from error

    def mark(function: Method) -> Method:
        return marked(function, "an abstract endpoint", _MARK, _Mark(name if isinstance(name, str) else None))

    if name is None or isinstance(name, str):
        return mark
    return mark(name)


abstract_dynamo_endpoint = abstract_endpoint


def is_interface(cls: type) -> bool:
    """Whether the class is an interface: an `AbstractService` in which abstract endpoints are left."""
    return issubclass(cls, AbstractService) and bool(abstract_endpoints(cls))


def abstract_endpoints(cls: type) -> dict[str, EndpointSpec]:
    """Return the abstract endpoints that the class leaves to others, by name."""
    left = [spec for spec in _promised(cls).values() if _mark_of(_static(cls, spec.attribute)) is not None]
    return {spec.name: spec for spec in left}


def check_interfaces(cls: type) -> None:
    """Raise TypeError if the class does not implement every interface that it derives from."""
    promised = _promised(cls)
    if not promised:
        return
    endpoints = {spec.attribute: spec for spec in collect_endpoints(cls).values()}
    missing, undecorated, others = [], [], []
    for attribute, promise in promised.items():
        value = _static(cls, attribute)
        if _mark_of(value) is not None:
            missing.append(attribute + _hidden(cls, attribute))
        elif not callable(value) and not isinstance(value, staticmethod | classmethod):
            others.append(f"{attribute} must be callable, got {type(value).__name__}")
        elif attribute not in endpoints:
            undecorated.append(attribute)
        elif problem := _mismatch(promise, endpoints[attribute]):
            others.append(problem)
    parts = [f"missing implementation(s): {', '.join(missing)}"] if missing else []
    parts += [f"method(s) not decorated with @endpoint: {', '.join(undecorated)}"] if undecorated else []
    if parts or others:
        raise TypeError(f"`{cls.__name__}` violates Dynamo interface — {'; '.join(parts + others)}")


def _hidden(cls: type, attribute: str) -> str:
    """What to do if a base implements the endpoint, but stands behind the interface."""
    holders = [base for base in cls.__mro__ if attribute in vars(base)]
    for base in holders:
        if _mark_of(vars(base)[attribute]) is None:
            return f" (name {base.__name__} before {holders[0].__name__} among the bases)"
    return ""


def _mismatch(promise: EndpointSpec, endpoint: EndpointSpec) -> str | None:
    if endpoint.name != promise.name:
        return f"{endpoint.attribute} must be the endpoint {promise.name!r}, got {endpoint.name!r}"
    if not endpoint.on_plane:
        return f"{endpoint.attribute} must be callable by other services, got an endpoint for HTTP clients only"
    return None


def _promised(cls: type) -> dict[str, EndpointSpec]:
    """The abstract endpoints of the class and its bases by attribute, whether or not they are implemented."""
    found: dict[str, EndpointSpec] = {}
    for base in reversed(cls.__mro__):
        for attribute, function in vars(base).items():
            mark = _mark_of(function)
            if mark is not None:
                transports = frozenset({DynamoTransport.DEFAULT})
                found[attribute] = EndpointSpec(mark.name or attribute, attribute, function, transports, "POST")
    return found


def _mark_of(value: object) -> _Mark | None:
    mark = inspect.getattr_static(value, _MARK, None)
    return mark if isinstance(mark, _Mark) else None


def _static(cls: type, attribute: str) -> object:
    return inspect.getattr_static(cls, attribute, None)

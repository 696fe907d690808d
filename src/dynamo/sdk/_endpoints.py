"""Endpoints: the methods of a service that can be called from outside it.

A decorator only marks the function, which stays what it was; `collect_endpoints` finds the marks
when the class becomes a service.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property, partialmethod
from typing import TypeVar, overload

from dynamo._core.address import check_name
from dynamo._core.errors import InvalidArgument
from dynamo._core.stability import stable

_MARK = "__dynamo_endpoint__"
_NO_METHODS = (staticmethod, classmethod, property, cached_property, partialmethod, type)
HTTP_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS")

Method = TypeVar("Method", bound=Callable[..., object])


@stable(since="0.1")
class DynamoTransport(StrEnum):
    """How an endpoint is reached."""

    DEFAULT = "default"  # by other services and clients, over the request plane
    HTTP = "http"  # by HTTP clients


@dataclass(frozen=True, slots=True)
class _Mark:
    name: str | None
    transports: frozenset[DynamoTransport]
    http_method: str


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """One endpoint of a service class."""

    name: str
    attribute: str
    function: Callable[..., object]
    transports: frozenset[DynamoTransport]
    http_method: str
    #: The functions of base classes, and so of interfaces, that it stands for; the nearest first.
    overridden: tuple[Callable[..., object], ...] = ()

    @property
    def on_plane(self) -> bool:
        """Whether other services can call it."""
        return DynamoTransport.DEFAULT in self.transports

    @property
    def on_http(self) -> bool:
        """Whether it is a route of the service's HTTP application."""
        return DynamoTransport.HTTP in self.transports

    @property
    def aliases(self) -> frozenset[str]:
        """The names by which a caller may write it as an attribute."""
        identifier = "".join(character if character.isalnum() else "_" for character in self.name)
        return frozenset((self.name, self.attribute, identifier))


@overload
def dynamo_endpoint(name: Method, /) -> Method: ...
@overload
def dynamo_endpoint(name: str | None = None, is_api: bool = False) -> Callable[[Method], Method]: ...
@stable(since="0.1")
def dynamo_endpoint(name: Method | str | None = None, is_api: bool = False) -> Method | Callable[[Method], Method]:
    """Mark a method that others can call: other services, or with `is_api` HTTP clients.

    The name is the method's unless another is given; it may contain slashes. Raises TypeError for what is no method,
    or a name that is none.
    """
    if not isinstance(is_api, bool):
        raise TypeError(f"is_api must be True or False, not {is_api!r}")
    transport = DynamoTransport.HTTP if is_api else DynamoTransport.DEFAULT
    return _decorator(name, [transport], None)


@overload
def endpoint(name: Method, /) -> Method: ...
@overload
def endpoint(
    name: str | None = None,
    transports: Iterable[DynamoTransport] | None = None,
    http_method: str | None = None,
) -> Callable[[Method], Method]: ...
@stable(since="0.1")
def endpoint(
    name: Method | str | None = None,
    transports: Iterable[DynamoTransport] | None = None,
    http_method: str | None = None,
) -> Method | Callable[[Method], Method]:
    """Mark a method that others can call, over the transports that are given: by default by other services.

    `http_method` (POST) is for the transport `DynamoTransport.HTTP`. Without a `name` it is the method's. Raises
    ValueError for a transport or a method that there is not, and for none at all, and TypeError for what is no method,
    or a name that is none.
    """
    return _decorator(name, [DynamoTransport.DEFAULT] if transports is None else transports, http_method)


@overload
def api(name: Method, /) -> Method: ...
@overload
def api(name: str | None = None, http_method: str | None = None) -> Callable[[Method], Method]: ...
@stable(since="0.1")
def api(name: Method | str | None = None, http_method: str | None = None) -> Method | Callable[[Method], Method]:
    """Mark a method that HTTP clients can call, under `/<name>`, with POST unless `http_method` is another.

    Without a `name` it is the method's. Raises ValueError for an HTTP method that there is not, and TypeError for what
    is no method, or a name that is none.
    """
    return _decorator(name, [DynamoTransport.HTTP], http_method)


def collect_endpoints(cls: type) -> dict[str, EndpointSpec]:
    """Return the endpoints of a class and its bases by name, in the order of definition."""
    by_attribute: dict[str, EndpointSpec] = {}
    for base in reversed(cls.__mro__):
        for attribute, value in vars(base).items():
            mark = _mark_of(value)
            if mark is None:
                by_attribute.pop(attribute, None)  # overridden without a decorator: no endpoint any more
            else:
                by_attribute[attribute] = _spec(cls, attribute, value, mark)
    endpoints: dict[str, EndpointSpec] = {}
    for spec in by_attribute.values():
        if spec.name in endpoints:
            other = endpoints[spec.name].attribute
            raise TypeError(f"{cls.__name__} has two endpoints named {spec.name!r}: {other} and {spec.attribute}")
        endpoints[spec.name] = spec
    on_plane = {name: spec for name, spec in endpoints.items() if spec.on_plane}
    for spec in on_plane.values():
        other_spec = on_plane.get(spec.attribute, spec)
        if other_spec is not spec:
            raise TypeError(
                f"{cls.__name__}.{spec.attribute} is the endpoint {spec.name!r}, and {spec.attribute!r} is "
                f"{other_spec.attribute}: a caller could mean either; rename one"
            )
    return endpoints


def marked(function: Method, what: str, attribute: str, mark: object) -> Method:
    """Put a mark on a method, which stays what it was. Raises TypeError for what is none; `what` it was to be."""
    if not callable(function):
        raise TypeError(f"{what} must be a method, got {type(function).__name__}")
    try:
        setattr(function, attribute, mark)
    except AttributeError:  # a built-in function, or a bound method
        raise TypeError(f"{what} must be a method, got {function!r}") from None
    return function


def _mark_of(value: object) -> _Mark | None:
    """The mark of what is in a class, also on the function inside, if something else stands above our decorator."""
    inside = (getattr(value, name, None) for name in ("__func__", "fget", "func"))
    marks = (getattr(one, "__dict__", {}).get(_MARK) for one in (value, *inside))
    return next((mark for mark in marks if mark is not None), None)


def _spec(cls: type, attribute: str, value: object, mark: _Mark) -> EndpointSpec:
    # Only what binds to an instance is called with it: a partial or a callable object is not.
    if isinstance(value, _NO_METHODS) or not callable(value) or not hasattr(value, "__get__"):
        raise TypeError(f"{cls.__name__}.{attribute}: an endpoint is a plain method, not a {type(value).__name__}")
    name = attribute if mark.name is None else mark.name
    try:
        check_name("endpoint name", name)
    except InvalidArgument as error:
        raise TypeError(f"{cls.__name__}.{attribute}: {error.message}") from error
    others = [vars(base)[attribute] for base in cls.__mro__ if attribute in vars(base)][1:]
    overridden = tuple(other for other in others if callable(other))
    return EndpointSpec(name, attribute, value, mark.transports, mark.http_method, overridden)


def _kinds_of(transports: object) -> frozenset[DynamoTransport]:
    given = [transports] if isinstance(transports, str) else transports
    if not isinstance(given, Iterable):
        raise TypeError(f"transports must be a list of DynamoTransport, not {transports!r}")
    kinds: list[DynamoTransport] = []
    for transport in given:
        try:
            kinds.append(DynamoTransport(transport))
        except ValueError as error:
            raise ValueError(f"transports: {error}; there are {', '.join(DynamoTransport)}") from None
    if not kinds:
        raise ValueError("transports is empty, so nobody could call the endpoint; leave it out, or name one")
    return frozenset(kinds)


def _decorator(
    name: Method | str | None, transports: Iterable[DynamoTransport], http_method: str | None
) -> Method | Callable[[Method], Method]:
    kinds = _kinds_of(transports)
    if http_method is not None and DynamoTransport.HTTP not in kinds:
        raise ValueError("http_method can only be specified for endpoints with HTTP transport")
    method_name = "POST" if http_method is None else str(http_method).upper()
    if method_name not in HTTP_METHODS:
        raise ValueError(f"http_method {http_method!r} is none of {', '.join(HTTP_METHODS)}")

    def mark(function: Method) -> Method:
        own = _Mark(name if isinstance(name, str) else None, kinds, method_name)
        return marked(function, "an endpoint", _MARK, own)

    if name is None or isinstance(name, str):
        return mark
    return mark(name)

"""Calls of dependencies that can only fail, found before anything runs.

`self.worker.generat(request)` names no endpoint, and a request may lack a field which the endpoint needs: both
are said at the start, with the line. Only what is certain is said; everything else is left to run.
"""

from __future__ import annotations

import ast
import difflib
import inspect
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING

from pydantic import BaseModel

from dynamo._core.errors import ConfigError
from dynamo.sdk._proxy import ServiceProxy
from dynamo.sdk._request_models import misfit, request_model, request_parameter
from dynamo.sdk._source import plain_function, source_of
from dynamo.sdk._uses import Use, bound_names, called_name, user_bases, uses_of

if TYPE_CHECKING:
    from dynamo.sdk._endpoints import EndpointSpec
    from dynamo.sdk._service import Service


def check_calls(service: Service[object]) -> None:
    """Raise `ConfigError` for a call that names no endpoint, or sends what the endpoint cannot take."""
    targets = service.edges()
    for use in uses_of(service.inner, targets):
        target = targets[use.dependency]
        if use.is_conditional and target is not service.dependencies[use.dependency].on:
            continue  # it may be there for another service that can be linked
        if use.name == "get_endpoint":
            _check_name(service, target, use)
        elif not use.name.startswith("_") and not hasattr(ServiceProxy, use.name):
            _check_request(service, target, use, _endpoint(service, target, use, use.name))


def _check_name(service: Service[object], target: Service[object], use: Use) -> None:
    """Check the name in `self.<dependency>.get_endpoint("name")`."""
    match use.call:
        case ast.Call(args=[ast.Constant(value=str(name))]):
            _endpoint(service, target, use, name)


def _endpoint(service: Service[object], target: Service[object], use: Use, name: str) -> EndpointSpec:
    specs = target.plane_endpoints
    named = [spec for spec in specs if spec.name == name]
    by_method = [spec for spec in specs if spec.attribute == name]
    for meant in (named, by_method, [spec for spec in specs if name in spec.aliases]):
        if len(meant) == 1:
            return meant[0]
    raise ConfigError(
        f"{use.place}: {service.name}.{use.method.name} calls {use.dependency}.{name}, "
        f"but {target.name} has no endpoint {name!r}; {_advice(target, name)}"
    )


def _advice(target: Service[object], name: str) -> str:
    if any(name in spec.aliases for spec in target.endpoints.values()):
        return f"{target.name}.{name} is for HTTP clients only"
    known = sorted({alias for spec in target.plane_endpoints for alias in spec.aliases if alias.isidentifier()})
    if callable(inspect.getattr_static(target.inner, name, None)):
        return f"mark {target.name}.{name} with @dynamo_endpoint()"
    if close := difflib.get_close_matches(name, known, n=1):
        return f"did you mean {close[0]!r}?"
    return f"it has {', '.join(known)}" if known else "it has none"


def _check_request(service: Service[object], target: Service[object], use: Use, spec: EndpointSpec) -> None:
    sent = _sent_model(service, use)
    wanted = misfit(sent, request_model(spec.function))
    if sent is not None and wanted is not None:
        raise ConfigError(
            f"{use.place}: {service.name}.{use.method.name} sends {sent.__name__} to {use.dependency}.{use.name}, "
            f"but {target.name} takes {wanted}"
        )


def _sent_model(service: Service[object], use: Use) -> type[BaseModel] | None:
    """The model of the request, where it is built in the call, or is the request of the endpoint that calls."""
    bound = bound_names(use.method)
    match use.call:
        case ast.Call(args=[request, *_]) | ast.Call(args=[], keywords=[ast.keyword(arg="request", value=request), *_]):
            match request:
                case ast.Call(func=function):
                    found = _global(function, use.function, bound)
                    return found if isinstance(found, type) and issubclass(found, BaseModel) else None
                case ast.Name(id=name) if bound.count(name) == 1:
                    return _own_request(service, use, name)
    return None


def _global(node: ast.expr, function: FunctionType, bound: list[str]) -> object:
    """What a name, or a name in a module, means at the top of the module of the function."""
    match node:
        case ast.Name(id=name) if name not in bound and name not in function.__code__.co_freevars:
            return function.__globals__.get(name)
        case ast.Attribute(value=value, attr=name):
            module = _global(value, function, bound)
            return vars(module).get(name) if isinstance(module, ModuleType) else None
    return None


def _own_request(service: Service[object], use: Use, name: str) -> type[BaseModel] | None:
    """The model of a parameter, if it is the request of an endpoint, and only the wire brings it."""
    parameter = request_parameter(use.function)
    is_request = parameter is not None and parameter.name == name and parameter.default is parameter.empty
    is_endpoint = any(plain_function(spec.function) is use.function for spec in service.endpoints.values())
    if not is_request or not is_endpoint or _calls_itself(service.inner, use.method.name):
        return None
    return request_model(use.function)


def _calls_itself(cls: type, method: str) -> bool:
    """Whether the class mentions its own method, as in `self.method` or `super().method`."""
    sources = [source for base in user_bases(cls) if (source := source_of(base)) is not None]
    return any(
        isinstance(node, ast.Attribute)
        and node.attr == method
        and (isinstance(node.value, ast.Name) or called_name(node.value) == "super")
        for source in sources
        for node in ast.walk(source.node)
    )

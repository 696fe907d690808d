"""How an endpoint becomes a route of a service's application.

FastAPI binds the parameters from the signature of the method, except the context of the request. What a
generator yields is streamed, and so is a stream that a method returns, such as a call of another service.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Coroutine, Generator, Iterator
from contextvars import ContextVar
from typing import TypeVar, cast, get_origin

import msgspec
from fastapi import FastAPI
from fastapi.exceptions import FastAPIError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.routing import BaseRoute, Route
from starlette.types import Message, Receive, Scope, Send

from dynamo._core.context import Context
from dynamo._core.errors import ConfigError, HandlerError
from dynamo.metrics import scope as metrics_scope
from dynamo.runtime._blame import blame
from dynamo.runtime._serving import iterate_beside
from dynamo.sdk._context import dynamo_context, request_context
from dynamo.sdk._endpoints import EndpointSpec
from dynamo.sdk._handler import CONTEXT_NAMES
from dynamo.sdk._hooks import contained
from dynamo.sdk._http_errors import problem
from dynamo.sdk._http_stream import Items, while_connected
from dynamo.sdk._service import Service

logger = logging.getLogger(__name__)

#: The annotations of what is streamed.
_STREAMS = (AsyncIterator, AsyncIterable, AsyncGenerator, Iterator, Generator)

T = TypeVar("T")

_receive: ContextVar[Receive] = ContextVar("receive")


def add_routes(app: FastAPI, service: Service[object], instance: object) -> None:
    """Add a route for each HTTP endpoint, before those that the application has: those may take every path.

    Raises `ConfigError` if the application has one of them already.
    """
    before = list(app.router.routes)
    for spec in service.endpoints.values():
        if spec.on_http:
            _check_free(service.name, before, spec)
            _add_route(app, service.name, instance, spec)
    added = [route for route in app.router.routes if route not in before]
    app.router.routes[:] = [*added, *before]


def _check_free(name: str, routes: list[BaseRoute], spec: EndpointSpec) -> None:
    path = _path(spec)
    for route in routes:
        if isinstance(route, Route) and route.path == path and spec.http_method in (route.methods or ()):
            raise ConfigError(f"the app of {name} has a route {spec.http_method} {path} already; rename the endpoint")


def _path(spec: EndpointSpec) -> str:
    return "/" + spec.name.lstrip("/")


def _add_route(app: FastAPI, name: str, instance: object, spec: EndpointSpec) -> None:
    try:
        app.router.add_api_route(
            _path(spec),
            _route_of(spec, getattr(instance, spec.attribute)),
            methods=[spec.http_method],
            route_class_override=_Route,
        )
    except (FastAPIError, NameError) as error:  # NameError: an annotation that is unknown at run time
        raise ConfigError(
            f"{name}.{spec.attribute} cannot be reached over HTTP, where a parameter is JSON, a plain value or one of "
            f"FastAPI's own types, and so is an answer: {str(error).partition(' Hint:')[0].splitlines()[0]}"
        ) from error


class _Route(APIRoute):
    """A route that answers for an exception which the application has no handler for, with one line in the log."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = False

        async def watched(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        _receive.set(receive)
        try:
            with contained(f"{scope['method']} {scope['path']}"), metrics_scope(endpoint=self.path.removeprefix("/")):
                await super().handle(scope, receive, watched)
        except Exception as error:
            handlers = scope["app"].exception_handlers
            if has_begun or 500 in handlers or any(kind in handlers for kind in type(error).__mro__):
                raise
            body = problem(HandlerError.code, 500, "")
            request_id = body["error"]["request_id"]
            logger.error("%s %s failed (%s): %s", scope["method"], scope["path"], request_id, blame(error))
            await JSONResponse(body, status_code=500)(scope, receive, send)


def _route_of(spec: EndpointSpec, method: Callable[..., object]) -> Callable[..., object]:
    """Return what FastAPI calls: it takes what HTTP brings, and answers what HTTP can carry."""
    signature = inspect.signature(method, eval_str=True)
    parameters = signature.parameters.values()
    # A method that takes the request may read from its connection, and then nobody else can.
    reads = any(isinstance(one.annotation, type) and issubclass(one.annotation, Request) for one in parameters)
    context_name = next((one.name for one in parameters if _is_context(one)), None)

    def call(arguments: dict[str, object]) -> object:
        return method(**arguments, **({} if context_name is None else {context_name: _context()}))

    async def generating(**arguments: object) -> object:
        return _answer(call(arguments))

    async def unary(**arguments: object) -> object:
        work, context = cast("Coroutine[object, object, object]", call(arguments)), _context()
        return _answer(
            await work if reads else await while_connected(_contained(work, context), _receive.get(), context)
        )

    def plain(**arguments: object) -> object:  # FastAPI runs it in a thread
        return _answer(call(arguments))

    route: Callable[..., object] = plain
    if inspect.isasyncgenfunction(spec.function) or inspect.isgeneratorfunction(spec.function):
        route = generating
    elif inspect.iscoroutinefunction(spec.function):
        route = unary
    route.__name__ = spec.attribute
    route.__doc__ = method.__doc__
    route.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[one for one in parameters if one.name != context_name],
        return_annotation=_returned(signature.return_annotation),
    )
    return route


def _is_context(parameter: inspect.Parameter) -> bool:
    """Whether a parameter is for the context of the request, and nothing that a client sends."""
    is_bare = parameter.annotation is parameter.empty
    return parameter.annotation is Context or (is_bare and parameter.name in CONTEXT_NAMES)


def _returned(annotation: object) -> object:
    """What FastAPI is told of an answer: nothing of a stream, or of a type that it does not know."""
    if (get_origin(annotation) or annotation) in _STREAMS:
        return Response
    is_struct = isinstance(annotation, type) and issubclass(annotation, msgspec.Struct)
    return inspect.Signature.empty if is_struct else annotation


def _answer(result: object) -> object:
    """What is sent for what a method returned, or for the generator that it is."""
    if isinstance(result, Generator):  # it may block
        result = iterate_beside(result, dynamo_context["runtime"].threads())
    if isinstance(result, AsyncIterator):
        return Items(result, _context())
    return msgspec.to_builtins(result) if isinstance(result, msgspec.Struct) else result


def _context() -> Context:
    """The context of the request, so that the calls which it makes belong to it."""
    context = request_context.get()
    assert context is not None, "the guard around the application has set it"
    return context


async def _contained(work: Coroutine[object, object, T], context: Context) -> T:
    with contained(f"request {context.request_id}"):
        return await work

"""How an endpoint becomes a route of a service's application.

FastAPI binds the parameters from the signature of the method. What an async generator yields is streamed:
text as it is, anything else as one line of JSON. When the client leaves, the work for it is cancelled.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from contextvars import ContextVar
from functools import partial
from typing import TypeVar, cast

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.requests import Request
from starlette.routing import BaseRoute, Route
from starlette.types import Message, Receive, Scope, Send

from dynamo._core.context import Context
from dynamo._core.errors import ConfigError, HandlerError
from dynamo.runtime._blame import blame
from dynamo.sdk._context import request_context
from dynamo.sdk._endpoints import EndpointSpec
from dynamo.sdk._http_errors import problem
from dynamo.sdk._service import Service

logger = logging.getLogger(__name__)

#: For the log only: who would read it has left.
_CLIENT_LEFT = 499

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
            _add_route(app, instance, spec)
    added = [route for route in app.router.routes if route not in before]
    app.router.routes[:] = [*added, *before]


def _check_free(name: str, routes: list[BaseRoute], spec: EndpointSpec) -> None:
    path = _path(spec)
    for route in routes:
        if isinstance(route, Route) and route.path == path and spec.http_method in (route.methods or ()):
            raise ConfigError(f"the app of {name} has a route {spec.http_method} {path} already; rename the endpoint")


def _path(spec: EndpointSpec) -> str:
    return "/" + spec.name.lstrip("/")


def _add_route(app: FastAPI, instance: object, spec: EndpointSpec) -> None:
    method: Callable[..., object] = getattr(instance, spec.attribute)
    add = partial(app.router.add_api_route, _path(spec), methods=[spec.http_method], route_class_override=_Route)
    if inspect.isasyncgenfunction(spec.function):
        add(_streaming(method), response_model=None)
    elif inspect.iscoroutinefunction(spec.function):
        add(_unary(method))
    else:
        add(method)


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
            await super().handle(scope, receive, watched)
        except Exception as error:
            handlers = scope["app"].exception_handlers
            if has_begun or 500 in handlers or any(kind in handlers for kind in type(error).__mro__):
                raise
            body = problem(HandlerError.code, 500, "")
            request_id = body["error"]["request_id"]
            logger.error("%s %s failed (%s): %s", scope["method"], scope["path"], request_id, blame(error))
            await JSONResponse(body, status_code=500)(scope, receive, send)


def _unary(method: Callable[..., object]) -> Callable[..., object]:
    signature = inspect.signature(method, eval_str=True)
    # A method that takes the request may read from its connection, and then nobody else can.
    reads = any(
        isinstance(parameter.annotation, type) and issubclass(parameter.annotation, Request)
        for parameter in signature.parameters.values()
    )

    async def route(**arguments: object) -> object:
        context = _context()
        work = cast("Coroutine[object, object, object]", method(**arguments))
        return await work if reads else await _while_connected(work, _receive.get(), context)

    return _with_signature(route, method, signature)


def _streaming(method: Callable[..., object]) -> Callable[..., object]:
    async def route(**arguments: object) -> Response:
        context = _context()
        return _Items(cast("AsyncGenerator[object, None]", method(**arguments)), context)

    signature = inspect.signature(method, eval_str=True).replace(return_annotation=Response)
    return _with_signature(route, method, signature)


def _context() -> Context:
    """The context of the request, so that the calls which it makes belong to it."""
    context = request_context.get()
    assert context is not None, "the guard around the application has set it"
    return context


def _with_signature(
    route: Callable[..., object], method: Callable[..., object], signature: inspect.Signature
) -> Callable[..., object]:
    route.__name__ = getattr(method, "__name__", "route")
    route.__doc__ = method.__doc__
    route.__signature__ = signature  # type: ignore[attr-defined]
    return route


class _Items(Response):
    """What a generator yields, as it is yielded. It ends early if the client leaves.

    The status is sent with the first item, so an error before it still has a status of its own; after
    it, the connection is broken, which is the only way left to say that something is missing.
    """

    def __init__(self, items: AsyncGenerator[object, None], context: Context) -> None:
        super().__init__()
        self._items = items
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _while_connected(self._send(send), receive, self._context)

    async def _send(self, send: Send) -> None:
        started = False
        try:
            async with aclosing(self._items):
                async for item in self._items:
                    body = _body(item)
                    if not started:
                        await send(_head(item))
                        started = True
                    await send({"type": "http.response.body", "body": body, "more_body": True})
            if not started:
                await send(_head(""))
        except Exception as error:
            if not started:
                raise
            logger.error("a response was broken off (%s): %s", self._context.request_id, blame(error))
            return
        await send({"type": "http.response.body", "body": b""})


async def _while_connected(work: Coroutine[object, object, T], receive: Receive, context: Context) -> T | Response:
    """Run `work` to its end and return what it does, or cancel it when the client leaves."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else Response(status_code=_CLIENT_LEFT)
    finally:
        leaving.cancel()
        if not working.done():
            context.kill()
            working.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


def _head(item: object) -> Message:
    kind = b"text/plain; charset=utf-8" if isinstance(item, str | bytes) else b"application/x-ndjson"
    return {"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]}


def _body(item: object) -> bytes:
    if isinstance(item, bytes):
        return item
    if isinstance(item, str):
        return item.encode()
    if isinstance(item, BaseModel):
        return item.model_dump_json().encode() + b"\n"
    return json.dumps(item, ensure_ascii=False, allow_nan=False).encode() + b"\n"

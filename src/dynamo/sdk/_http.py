"""The HTTP side of a service: its application, and the server that runs it beside the endpoints.

Endpoints become routes whose parameters FastAPI binds from the signature of the method. What an async
generator yields is streamed: text as it is, anything else as one line of JSON.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import cast

import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from dynamo._core.context import Context
from dynamo._core.errors import ConfigError, DynamoError
from dynamo.runtime._http_status import status_of
from dynamo.sdk._blame import blame
from dynamo.sdk._context import request_context
from dynamo.sdk._endpoints import EndpointSpec
from dynamo.sdk._service import Service

logger = logging.getLogger(__name__)

#: Statuses that tell of a fault, and not of load or of the client.
_FAULTS = (500, 502)


def build_app(service: Service[object], instance: object) -> FastAPI:
    """Return the application of a service, with a route for each of its HTTP endpoints."""
    app = service.app or FastAPI(title=service.name)
    if DynamoError not in app.exception_handlers:
        app.add_exception_handler(DynamoError, _answer_error)
    for spec in service.endpoints.values():
        if spec.on_http:
            _add_route(app, instance, spec)
    return app


class HttpServer:
    """Serves an application on a socket that is bound already. `on_end` is called when it serves no more."""

    def __init__(self, app: FastAPI, bound: socket.socket, on_end: Callable[[], None]) -> None:
        config = uvicorn.Config(app, log_config=None, access_log=False)
        self._server = _Server(config)
        self._socket = bound
        self._on_end = on_end
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Return when the server accepts. Raises `ConfigError` if the application's own startup failed."""
        self._task = asyncio.create_task(self._run())
        accepting = asyncio.create_task(self._server.accepting.wait())
        try:
            await asyncio.wait([self._task, accepting], return_when=asyncio.FIRST_COMPLETED)
        finally:
            accepting.cancel()
        if self._task.done():
            ended, self._task = self._task, None
            ended.result()

    async def stop(self, drain_s: float) -> None:
        """Accept no more, and let the requests that run end within `drain_s`."""
        if self._task is None:
            return
        self._server.config.timeout_graceful_shutdown = max(1, round(drain_s))
        self._server.should_exit = True
        await self._task

    async def _run(self) -> None:
        try:
            await self._server.serve(sockets=[self._socket])
        except SystemExit:
            # uvicorn ends the process when a lifespan fails; here it is one part of a process.
            raise ConfigError("the startup of the FastAPI application failed; its log says why") from None
        except OSError as error:
            host, port = self._socket.getsockname()[:2]
            raise ConfigError(f"cannot listen on port {port} of {host}: {error.strerror or error}") from error
        finally:
            self._on_end()


class _Server(uvicorn.Server):
    """uvicorn, without its signal handlers: the process has its own."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.accepting = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.accepting.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _add_route(app: FastAPI, instance: object, spec: EndpointSpec) -> None:
    path = "/" + spec.name.lstrip("/")
    method: Callable[..., object] = getattr(instance, spec.attribute)
    if inspect.isasyncgenfunction(spec.function):
        app.add_api_route(path, _streaming(method), methods=[spec.http_method], response_model=None)
    else:
        app.add_api_route(path, _in_context(method), methods=[spec.http_method])


def _in_context(method: Callable[..., object]) -> Callable[..., object]:
    """Give an async method a context of its own, so that the calls it makes share a request id."""
    if not inspect.iscoroutinefunction(method):
        return method

    async def route(**arguments: object) -> object:
        request_context.set(Context())
        return await cast("Awaitable[object]", method(**arguments))

    return _with_signature(route, method, inspect.signature(method, eval_str=True))


def _streaming(method: Callable[..., object]) -> Callable[..., object]:
    async def route(**arguments: object) -> Response:
        context = Context()
        request_context.set(context)
        return _Items(cast("AsyncGenerator[object, None]", method(**arguments)), context)

    signature = inspect.signature(method, eval_str=True).replace(return_annotation=Response)
    return _with_signature(route, method, signature)


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
        sending = asyncio.create_task(self._send(send))
        leaving = asyncio.create_task(_disconnected(receive))
        try:
            await asyncio.wait([sending, leaving], return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            leaving.cancel()
            if not sending.done():
                self._context.kill()
                sending.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)

    async def _send(self, send: Send) -> None:
        started = False
        try:
            async with aclosing(self._items):
                async for item in self._items:
                    if not started:
                        await send(_head(item))
                        started = True
                    await send({"type": "http.response.body", "body": _body(item), "more_body": True})
            if not started:
                await send(_head(""))
        except Exception as error:
            if not started:
                raise
            logger.error("a response was broken off: %s", blame(error))
            return
        await send({"type": "http.response.body", "body": b""})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


def _head(item: object) -> dict[str, object]:
    kind = b"text/plain; charset=utf-8" if isinstance(item, str | bytes) else b"application/x-ndjson"
    return {"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]}


def _body(item: object) -> bytes:
    if isinstance(item, bytes):
        return item
    if isinstance(item, str):
        return item.encode()
    if isinstance(item, BaseModel):
        return item.model_dump_json().encode() + b"\n"
    return json.dumps(item, ensure_ascii=False).encode() + b"\n"


async def _answer_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, DynamoError)
    status = status_of(error)
    if status in _FAULTS:
        logger.error("%s %s failed: %s", request.method, request.url.path, blame(error))
    return JSONResponse({"error": {"code": error.code, "message": str(error)}}, status_code=status)

"""The HTTP side of a service: its application, and the server that runs it beside the endpoints."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from starlette.requests import Request

from dynamo._core.errors import ConfigError, DynamoError
from dynamo.runtime._http_status import status_of
from dynamo.sdk._blame import blame
from dynamo.sdk._http_routes import add_route
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
            add_route(app, instance, spec)
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


async def _answer_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, DynamoError)
    status = status_of(error)
    if status in _FAULTS:
        logger.error("%s %s failed: %s", request.method, request.url.path, blame(error))
    return JSONResponse({"error": {"code": error.code, "message": str(error)}}, status_code=status)

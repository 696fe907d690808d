"""The HTTP application that a frontend and `dynamo route` have alike.

The routes that answer requests to a model are called straight from the server. Everything else goes through starlette,
where a few microseconds do not matter: what models there are, why requests went where they went, life, and metrics.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from dynamo._core.errors import DynamoError
from dynamo.frontend._active import ActiveRequests
from dynamo.frontend._errors import HttpRuleError, body_of, headers_of, status_of
from dynamo.frontend._explain import Routers, decisions_on, recent_decisions
from dynamo.runtime._exposition import Expose


class CommonApp(ABC):
    """An ASGI application; `active` knows what it is answering. Without `expose` there are no metrics."""

    def __init__(
        self, answering: Mapping[str, ASGIApp], active: ActiveRequests, routers: Routers, expose: Expose | None
    ) -> None:
        self.active = active
        self._answering = answering
        self._routers = routers
        self._expose = expose
        self._others = Starlette(
            routes=[
                Route("/v1/models", self._list_models),
                Route("/v1/models/{model:path}", self._show_model),
                Route("/v1/explain", self._explain_recent),
                Route("/v1/explain/{request_id}", self._explain),
                Route("/health", self._health),
                Route("/live", self._live),
                *([] if expose is None else [Route("/metrics", self._metrics)]),
            ],
            exception_handlers={HTTPException: no_route},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._answering.get(scope.get("path", ""))
        if route is not None and scope["type"] == "http":
            await route(scope, receive, send)
        else:
            await self._others(scope, receive, send)

    @abstractmethod
    async def _list_models(self, _: Request) -> Response: ...

    @abstractmethod
    async def _show_model(self, request: Request) -> Response: ...

    @abstractmethod
    async def _health(self, _: Request) -> Response: ...

    async def _explain(self, request: Request) -> Response:
        try:
            return _json(decisions_on(self._routers, str(request.path_params["request_id"])))
        except DynamoError as error:
            return error_response(error)

    async def _explain_recent(self, request: Request) -> Response:
        try:
            return _json(recent_decisions(self._routers, request.query_params.get("limit", "20")))
        except DynamoError as error:
            return error_response(error)

    async def _live(self, _: Request) -> Response:
        return JSONResponse({"status": "live"})

    async def _metrics(self, request: Request) -> Response:
        assert self._expose is not None, "or there were no such route"
        body, content_type = self._expose(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type, "cache-control": "no-store"})


async def no_route(request: Request, error: Exception) -> Response:
    """Answer what no route takes."""
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "")
        message = f"{request.url.path} does not take {request.method}"
        return error_response(HttpRuleError(405, "method_not_allowed", message, allow=allow))
    message = f"Route not found: {request.method} {request.url.path}"
    return error_response(HttpRuleError(error.status_code, "not_found", message))


def error_response(error: DynamoError) -> Response:
    headers = {name.decode(): value.decode() for name, value in headers_of(error)}
    return Response(body_of(error), status_of(error), headers, "application/json")


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json")

"""The routes that a frontend and `dynamo route` have alike: why requests went where they went, life, metrics."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from dynamo._core.errors import DynamoError
from dynamo.frontend._errors import HttpRuleError, body_of, headers_of, status_of
from dynamo.frontend._explain import Routers, decisions_on, recent_decisions
from dynamo.runtime._exposition import Expose


class CommonRoutes:
    """Answers what has to do with routers and the process; without `expose` there are no metrics."""

    def __init__(self, routers: Routers, expose: Expose | None) -> None:
        self._routers = routers
        self._expose = expose

    def routes(self) -> list[Route]:
        return [
            Route("/v1/explain", self._explain_recent),
            Route("/v1/explain/{request_id}", self._explain),
            Route("/live", self._live),
            *([] if self._expose is None else [Route("/metrics", self._metrics)]),
        ]

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

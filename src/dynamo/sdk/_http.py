"""The HTTP side of a service: its application, with a route for each endpoint, within limits."""

from __future__ import annotations

import json
import logging
import math

from fastapi import FastAPI
from fastapi.exception_handlers import request_validation_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.requests import Request
from starlette.types import ASGIApp

from dynamo._core.errors import ConfigError, DynamoError
from dynamo.runtime._blame import blame
from dynamo.runtime._http_status import retry_after_s, status_of
from dynamo.sdk._http_errors import TRY_AGAIN, problem_of
from dynamo.sdk._http_guard import HttpGuard
from dynamo.sdk._http_routes import add_routes
from dynamo.sdk._sections import Section
from dynamo.sdk._service import Service
from dynamo.sdk.lib.config import ServiceConfig

logger = logging.getLogger(__name__)

#: The key of a service's section that says how many MiB the body of a request may have.
BODY_LIMIT_KEY = "http_body_limit_mb"
BODY_LIMIT_MB = 32.0

#: Statuses that tell of a fault, and not of load or of the client.
_FAULTS = (500, 502)


def build_app(service: Service[object], instance: object) -> ASGIApp:
    """Return the application of a service, with a route for each of its HTTP endpoints, as it is served."""
    app = service.app or FastAPI(title=service.name)
    if DynamoError not in app.exception_handlers:
        app.add_exception_handler(DynamoError, _answer_error)
    if app.exception_handlers.get(RequestValidationError) is request_validation_exception_handler:
        app.add_exception_handler(RequestValidationError, _answer_invalid)
    add_routes(app, service, instance)
    section = ServiceConfig.get_instance().get(service.name, {})
    return HttpGuard(app, _body_bytes_max(service.name, section))


def _body_bytes_max(name: str, section: Section) -> int:
    limit = section.get(BODY_LIMIT_KEY, BODY_LIMIT_MB)
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not (math.isfinite(limit) and limit > 0):
        raise ConfigError(f"{name}.{BODY_LIMIT_KEY} must be a number of MiB above 0, not {limit!r}")
    return int(limit * (1 << 20))


async def _answer_invalid(request: Request, error: Exception) -> Response:
    """Answer as FastAPI does: with what was sent, unless that cannot be sent back."""
    assert isinstance(error, RequestValidationError)
    try:
        return await request_validation_exception_handler(request, error)
    except (ValueError, RecursionError):  # NaN, half a surrogate pair, or nested too deep
        details = [{key: one[key] for key in ("type", "loc", "msg")} for one in error.errors()]
        return Response(json.dumps({"detail": details}), status_code=422, media_type="application/json")


async def _answer_error(request: Request, error: Exception) -> Response:
    """Answer with the status of the error. What happened inside is for the log, not for the client."""
    assert isinstance(error, DynamoError)
    status = status_of(error)
    body = problem_of(error)
    if status >= 500:
        level = logging.ERROR if status in _FAULTS else logging.WARNING
        request_id = body["error"]["request_id"]
        logger.log(level, "%s %s failed (%s): %s", request.method, request.url.path, request_id, blame(error))
    headers = {"retry-after": str(retry_after_s(error))} if status in TRY_AGAIN else None
    return JSONResponse(body, status_code=status, headers=headers)

"""From an error to an HTTP answer.

A stream that has begun cannot change its status any more, so the same error object travels in it as
its last event.
"""

from __future__ import annotations

import msgspec

from dynamo._core.errors import DynamoError
from dynamo.runtime import _http_status

RETRY_AFTER_S = 1

_TYPES = {500: "server_error", 502: "bad_gateway_error", 503: "service_unavailable_error", 504: "timeout_error"}


class HttpError(DynamoError):
    """The request breaks a rule of HTTP; `status` says which."""

    code = "http_error"

    def __init__(self, status: int, code: str, message: str, **details: str) -> None:
        super().__init__(message, code=code, **details)
        self.status = status


def status_of(error: DynamoError) -> int:
    """Return the status that this error is answered with."""
    return error.status if isinstance(error, HttpError) else _http_status.status_of(error)


def headers_of(error: DynamoError) -> list[tuple[bytes, bytes]]:
    """Return the headers that belong to this error's answer."""
    headers = []
    if status_of(error) == 503:
        headers.append((b"retry-after", b"%d" % RETRY_AFTER_S))
    if "allow" in error.details:
        headers.append((b"allow", str(error.details["allow"]).encode("latin-1")))
    return headers


def body_of(error: DynamoError) -> bytes:
    """Return the error object of the OpenAI API, as JSON."""
    param = error.details.get("param")
    return msgspec.json.encode(
        {
            "error": {
                "message": str(error),
                "type": _TYPES.get(status_of(error), "invalid_request_error"),
                "param": None if param is None else str(param),
                "code": str(error.details.get("code", error.code)),
            }
        }
    )

"""Reading a request: its id, its trace, its content type, and its body within the limits."""

from __future__ import annotations

import asyncio
import re

from pydantic import JsonValue
from starlette.types import Receive, Scope

from dynamo._core.errors import InvalidArgument
from dynamo.frontend._active import ClientGone
from dynamo.frontend._errors import HttpRuleError
from dynamo.frontend._json import loads

#: A body that takes longer to arrive is given up.
BODY_TIMEOUT_S = 30.0

_REQUEST_ID = re.compile(rb"[A-Za-z0-9_.:\-]{1,128}")
_JSON = re.compile(rb"application/json\s*(;\s*charset\s*=\s*\"?utf-?8\"?\s*)?", re.IGNORECASE)


def request_id_of(scope: Scope) -> str | None:
    """Return the id that the client gave in `x-request-id`; None if it gave none."""
    given = _header(scope, b"x-request-id")
    if given is None:
        return None
    if not _REQUEST_ID.fullmatch(given):
        raise InvalidArgument(
            "the header x-request-id must be 1 to 128 letters, digits and . _ : -", param="x-request-id"
        )
    return given.decode("ascii")


async def read_json(scope: Scope, receive: Receive, size_bytes_max: int) -> JsonValue:
    """Return the body, which must be JSON of at most `size_bytes_max` bytes."""
    content_type = _header(scope, b"content-type")
    if content_type is None or not _JSON.fullmatch(content_type.strip()):
        raise HttpRuleError(415, "unsupported_media_type", "send the body as 'Content-Type: application/json' in UTF-8")
    if (_header(scope, b"content-encoding") or b"identity").lower() != b"identity":
        raise HttpRuleError(
            415, "unsupported_media_type", "send the body uncompressed: 'Content-Encoding' is not supported"
        )
    return loads(await read_body(scope, receive, size_bytes_max))


async def read_body(scope: Scope, receive: Receive, size_bytes_max: int) -> bytes:
    """Return the body, of at most `size_bytes_max` bytes, as it is."""
    length = _header(scope, b"content-length") or b""
    if length.isdigit() and int(length[:20]) > size_bytes_max:
        raise _too_large(size_bytes_max)
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await _read(receive, size_bytes_max)
    except TimeoutError:
        raise HttpRuleError(408, "request_timeout", f"the body did not arrive within {BODY_TIMEOUT_S:g} s") from None


async def _read(receive: Receive, size_bytes_max: int) -> bytes:
    parts: list[bytes] = []
    size_bytes = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone("the client closed the connection before its request was complete")
        part = message.get("body", b"")
        size_bytes += len(part)
        if size_bytes > size_bytes_max:
            raise _too_large(size_bytes_max)
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def _too_large(size_bytes_max: int) -> HttpRuleError:
    return HttpRuleError(
        413, "body_too_large", f"the body is larger than {size_bytes_max} bytes (DYN_HTTP_BODY_LIMIT_MB)"
    )


def _header(scope: Scope, name: bytes) -> bytes | None:
    return next((value for key, value in scope["headers"] if key == name), None)

"""What stands between HTTP clients and the application of a service: the id of a request, and limits.

Each request has an id, the one of its `x-request-id` if that is one, or a new one, and a trace, that of its
`traceparent` if there is one. The calls that it makes carry both on, and the response returns the id. A body is
limited in size, and may not stop to come.
"""

from __future__ import annotations

import asyncio
import re

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dynamo._core.context import Context, handling
from dynamo._core.errors import InvalidArgument
from dynamo._core.trace import trace_metadata
from dynamo.sdk._http_errors import problem

#: How long a body may stand still.
BODY_STALL_S = 30.0

_REQUEST_ID = re.compile(rb"[A-Za-z0-9_.:\-]{1,128}")
_HEADER = b"x-request-id"


class HttpGuard:
    """An application around another. What is not HTTP passes as it is."""

    def __init__(self, app: ASGIApp, body_bytes_max: int, *, body_stall_s: float = BODY_STALL_S) -> None:
        self._app = app
        self._body_bytes_max = body_bytes_max
        self._body_stall_s = body_stall_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = Context(_given_id(scope), trace_metadata(scope["headers"]))
        _ = context.trace  # begun here, it is that of every call
        with handling(context):
            await self._serve(context, scope, receive, send)

    async def _serve(self, context: Context, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = _Exchange(receive, send, context.request_id, self._body_bytes_max, self._body_stall_s)
        exchange.check_length(scope)
        if exchange.refusal is None:
            try:
                await self._app(scope, exchange.receive, exchange.send)
            except Exception:
                if exchange.refusal is None:
                    raise
        if exchange.refusal is not None and not exchange.has_begun:
            exchange.is_refusing = True
            await exchange.refusal(scope, receive, exchange.send)


class _Exchange:
    """One request and its response. One that is refused looks to the application as if its client had left."""

    def __init__(self, receive: Receive, send: Send, request_id: str, bytes_max: int, stall_s: float) -> None:
        self._receive = receive
        self._send = send
        self._request_id = request_id.encode()
        self._bytes_max = bytes_max
        self._stall_s = stall_s
        # The mutable state.
        self.refusal: JSONResponse | None = None
        self.is_refusing = False
        self.has_begun = False
        self._bytes = 0
        self._has_body = False

    def check_length(self, scope: Scope) -> None:
        """Refuse a request that says itself that it is too large."""
        length = _header(scope, b"content-length")
        if length is not None and length.isdigit() and int(length) > self._bytes_max:
            self._refuse_size()

    async def receive(self) -> Message:
        """Return what comes from the client."""
        if self.refusal is not None:
            return {"type": "http.disconnect"}
        if self._has_body:
            return await self._receive()
        try:
            async with asyncio.timeout(self._stall_s):
                message = await self._receive()
        except TimeoutError:
            text = f"nothing of the body came for {self._stall_s:g} s"
            self.refusal = JSONResponse(problem(InvalidArgument.code, 408, text), 408)
            return {"type": "http.disconnect"}
        self._bytes += len(message.get("body", b""))
        self._has_body = not message.get("more_body", False)
        if self._bytes > self._bytes_max:
            self._refuse_size()
            return {"type": "http.disconnect"}
        return message

    async def send(self, message: Message) -> None:
        """Send what the application answers, with the id of the request."""
        if self.refusal is not None and not (self.is_refusing or self.has_begun):
            return  # it answers that its client has left
        if message["type"] == "http.response.start":
            self.has_begun = True
            headers = list(message.get("headers", ()))
            if not any(name.lower() == _HEADER for name, _ in headers):
                headers.append((_HEADER, self._request_id))
            message = {**message, "headers": headers}
        await self._send(message)

    def _refuse_size(self) -> None:
        text = f"the body of a request may have {self._bytes_max} bytes"
        self.refusal = JSONResponse(problem(InvalidArgument.code, 413, text), 413)


def _given_id(scope: Scope) -> str | None:
    given = _header(scope, _HEADER)
    return given.decode() if given is not None and _REQUEST_ID.fullmatch(given) else None


def _header(scope: Scope, name: bytes) -> bytes | None:
    return next((value for key, value in scope["headers"] if key == name), None)

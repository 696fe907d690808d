"""Writing an answer: JSON at once, or server-sent events as they come.

A stream's head is sent together with its first events, so that whatever goes wrong before them is
still answered with a status. Many events that are ready together are one write. `send` waits while
the client does not read, which pauses the whole chain behind it.
"""

from __future__ import annotations

from collections.abc import Iterable

from starlette.types import Send

from dynamo._core.errors import DynamoError
from dynamo.frontend._errors import body_of, headers_of, status_of

_EVENT_STREAM = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
_DONE = b"data: [DONE]\n\n"

Headers = Iterable[tuple[bytes, bytes]]


class Reply:
    """The answer to one request, which begins at most once."""

    __slots__ = ("_headers", "_is_other", "_request_id", "_send", "started")

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self._headers = [(b"x-request-id", request_id.encode("latin-1"))]
        #: Whether the status is sent.
        self.started = False
        # Whether it is neither our JSON, which is sent at once, nor a stream of events.
        self._is_other = False

    async def json(self, body: bytes, status: int = 200, headers: Headers = ()) -> None:
        """Answer with a JSON body."""
        length = (b"content-length", b"%d" % len(body))
        await self._start(status, [(b"content-type", b"application/json"), length, *self._headers, *headers])
        await self._send({"type": "http.response.body", "body": body})

    async def events(self, bodies: list[bytes]) -> None:
        """Send one event per body, all in one write."""
        if not self.started:
            await self._start(200, [*_EVENT_STREAM, *self._headers])
        body = b"data: " + b"\n\ndata: ".join(bodies) + b"\n\n"
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def comment(self, text: bytes) -> None:
        """Send a line that readers of events ignore."""
        if not self.started:
            await self._start(200, [*_EVENT_STREAM, *self._headers])
        await self._send({"type": "http.response.body", "body": b": " + text + b"\n\n", "more_body": True})

    async def head(self, status: int, headers: Headers, *, is_stream: bool) -> None:
        """Begin an answer that somebody else has written; `part` and `end` follow."""
        self._is_other = not is_stream
        await self._start(status, [*headers, *self._headers])

    async def part(self, body: bytes) -> None:
        """Send a part of it as it is."""
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self) -> None:
        """It is complete."""
        await self._send({"type": "http.response.body", "body": b""})

    async def done(self) -> None:
        """End a stream that is complete."""
        if not self.started:
            await self._start(200, [*_EVENT_STREAM, *self._headers])
        await self._send({"type": "http.response.body", "body": _DONE})

    async def fail(self, error: DynamoError) -> None:
        """Answer with an error. In a stream it is the last event, and no `[DONE]` follows it.

        An answer of another kind that has begun is left without its end: the server then closes the connection.
        """
        body = body_of(error, self._request_id)
        if not self.started:
            await self.json(body, status_of(error), headers_of(error))
        elif not self._is_other:
            await self._send({"type": "http.response.body", "body": b"data: " + body + b"\n\n"})

    async def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

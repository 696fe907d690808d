"""A client of the frontend without a server between: it calls the ASGI application on the frontend's host.

It sees what a client would see, byte by byte, and it can leave at any moment, or read slowly.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import msgspec
from starlette.types import ASGIApp, Message
from tests.sim.host import Host


@dataclass
class Answer:
    """What a client got: the status, the body so far, and how it ended."""

    status: int | None = None
    body: bytes = b""
    #: Whether the application said that the body is complete.
    is_complete: bool = False
    #: Whether the call of the application returned.
    is_over: bool = False
    #: What it raised.
    error: BaseException | None = None
    #: What it did that ASGI forbids.
    misdeeds: list[str] = field(default_factory=list)
    #: The longest time in which nothing came, and when something came last.
    longest_pause_s: float = 0.0
    heard_at: float = 0.0


async def post(
    app: ASGIApp,
    host: Host,
    path: str,
    body: dict[str, object],
    answer: Answer,
    *,
    request_id: str,
    leave_at: float | None = None,
    read_pause_s: float = 0.0,
) -> None:
    """Send a request, and note in `answer` what comes back. Returns when the call is over, or its host is dead."""
    loop = asyncio.get_running_loop()
    answer.heard_at = loop.time()
    left = loop.create_future()
    payload: list[Message] = [{"type": "http.request", "body": msgspec.json.encode(body), "more_body": False}]

    async def receive() -> Message:
        if payload:
            return payload.pop()
        await asyncio.wait([left])
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if not left.done():  # a server drops what nobody reads
            answer.longest_pause_s = max(answer.longest_pause_s, loop.time() - answer.heard_at)
            answer.heard_at = loop.time()
            _note(answer, message)
        if read_pause_s:  # as a server does: first it takes the message, then it waits for room
            await asyncio.sleep(read_pause_s)

    headers = [(b"content-type", b"application/json"), (b"x-request-id", request_id.encode())]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b""}

    async def call() -> None:
        try:
            await app(scope, receive, send)
        except BaseException as error:
            answer.error = error

    def leave() -> None:
        if not left.done():
            left.set_result(None)

    timer = None if leave_at is None else loop.call_at(leave_at, leave)
    calling = host.run(call(), name=f"http {request_id}")
    try:
        while not calling.done() and not host.is_dead:
            await asyncio.wait([calling], timeout=1.0)
    finally:
        if timer is not None:
            timer.cancel()
    answer.is_over = calling.done()
    leave()


def _note(answer: Answer, message: Message) -> None:
    if message["type"] == "http.response.start":
        if answer.status is not None:
            answer.misdeeds.append("began twice")
        answer.status = message["status"]
    else:
        if answer.status is None:
            answer.misdeeds.append("sent a body before its head")
        if answer.is_complete:
            answer.misdeeds.append("sent more after its end")
        answer.body += message.get("body", b"")
        answer.is_complete = not message.get("more_body", False)

"""Passing an answer on to the client, part by part as it arrives.

It is passed on as it is, with two exceptions: whoever asked why the request went where it went is told so in it, and
of a stream only whole events are, so that what is told of a loss is an event of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from dynamo._core.errors import StreamIncomplete
from dynamo.frontend._explain import comment_of, with_decisions
from dynamo.frontend._reply import Reply
from dynamo.frontend._route.attempts import Begun
from dynamo.llm._routing import Route

#: The longest event that is held until it is whole, and the longest answer that something is added to.
EVENT_BYTES_MAX = 1 << 20
EXPLAINED_BYTES_MAX = 64 << 20

#: Which web pages may read an answer is said here, for all servers alike (`_cors.py`).
_CORS = b"access-control-"
_EVENT = b"data:"
_DONE = b"[DONE]"
_ENDS = (b"\n\n", b"\r\n\r\n")


class WholeEvents:
    """Cuts a stream of events behind whole ones; what is held is the beginning of the next."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, part: bytes) -> bytes:
        """Return the events that are whole now."""
        held = self._held + part
        end = max(held.rfind(mark) + len(mark) if mark in held else 0 for mark in _ENDS)
        if len(held) - end > EVENT_BYTES_MAX:
            end = len(held)
        self._held = held[end:]
        return held[:end]

    def rest(self) -> bytes:
        """Return what was held; nothing comes any more."""
        held, self._held = self._held, b""
        return held


async def relay(begun: Begun, reply: Reply, route: Route, decisions: Sequence[object]) -> None:
    """Pass an answer on, up to its end; `decisions` are for a client that asked for them.

    Raises `DynamoError` if it is lost on its way.
    """
    answer = begun.answer
    headers = [one for one in answer.headers if one[0] != b"x-request-id" and not one[0].startswith(_CORS)]
    if decisions and not answer.is_stream:
        body = _explained(await begun.read_all(EXPLAINED_BYTES_MAX), decisions)
        headers = [(name, value) for name, value in headers if name != b"content-length"]
        headers.append((b"content-length", b"%d" % len(body)))
        await reply.head(answer.status, headers, is_stream=False)
        await reply.part(body)
        return
    await reply.head(answer.status, headers, is_stream=answer.is_stream)
    if answer.is_stream and answer.header("Content-Encoding") is None:
        if decisions:
            await reply.comment(comment_of(decisions))
        await _relay_events(begun, reply, route)
    else:
        part = begun.first
        while part:
            await reply.part(part)
            part = await begun.read()


async def _relay_events(begun: Begun, reply: Reply, route: Route) -> None:
    events = WholeEvents()
    part, last = begun.first, b""
    while part:
        if whole := events.feed(part):
            route.note_tokens(whole.count(_EVENT))
            await reply.part(whole)
            last = whole
        part = await begun.read()
    if rest := events.rest():
        await reply.part(rest)
        last += rest
    if begun.answer.ends_by_closing and _DONE not in last:
        # It looks the same when the server dies.
        raise StreamIncomplete(f"the stream of {begun.backend.url} ended without saying so")


def _explained(body: bytes, decisions: Sequence[object]) -> bytes:
    """Add decisions to an answer; one that cannot be read as a JSON object, such as a proxy's, stays as it is."""
    try:
        return with_decisions(body, decisions)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body

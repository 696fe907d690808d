"""A streamed answer over HTTP: text as it is, anything else as one line of JSON each.

When the client leaves, the work for it is cancelled.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import TypeVar

import msgspec
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.types import Message, Receive, Scope, Send

from dynamo._core.context import Context
from dynamo.runtime._blame import blame
from dynamo.sdk._hooks import contained

logger = logging.getLogger(__name__)

#: For the log only: who would read it has left.
_CLIENT_LEFT = 499

T = TypeVar("T")


class Items(Response):
    """What a generator yields, as it is yielded. It ends early if the client leaves.

    The status is sent with the first item, so an error before it still has a status of its own; after
    it, the connection is broken, which is the only way left to say that something is missing.
    """

    def __init__(self, items: AsyncIterator[object], context: Context) -> None:
        super().__init__()
        self._items = items
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await while_connected(self._send(send), receive, self._context)

    async def _send(self, send: Send) -> None:
        started = False
        try:
            with contained(f"request {self._context.request_id}"):
                async with _closing(self._items):
                    async for item in self._items:
                        body = _body(item)
                        if not started:
                            await send(_head(item))
                            started = True
                        await send({"type": "http.response.body", "body": body, "more_body": True})
            if not started:
                await send(_head(""))
        except Exception as error:
            if not started:
                raise
            logger.error("a response was broken off (%s): %s", self._context.request_id, blame(error))
            return
        await send({"type": "http.response.body", "body": b""})


async def while_connected(work: Coroutine[object, object, T], receive: Receive, context: Context) -> T | Response:
    """Run `work` to its end and return what it does, or cancel it when the client leaves."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else Response(status_code=_CLIENT_LEFT)
    finally:
        leaving.cancel()
        if not working.done():
            context.kill()
            working.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


@asynccontextmanager
async def _closing(items: AsyncIterator[object]) -> AsyncIterator[None]:
    """Close what can be closed, however its items end."""
    try:
        yield
    finally:
        if hasattr(items, "aclose"):
            await items.aclose()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


def _head(item: object) -> Message:
    kind = b"text/plain; charset=utf-8" if isinstance(item, str | bytes) else b"application/x-ndjson"
    return {"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]}


def _body(item: object) -> bytes:
    if isinstance(item, bytes):
        return item
    if isinstance(item, str):
        return item.encode()
    if isinstance(item, BaseModel):
        return item.model_dump_json().encode() + b"\n"
    if isinstance(item, msgspec.Struct):
        return msgspec.json.encode(item) + b"\n"
    return json.dumps(item, ensure_ascii=False, allow_nan=False).encode() + b"\n"

"""The routes that generate: read a request, find its model, and pass the answer on.

These are plain ASGI callables: what happens per token is one `send` of everything that is ready, and
nothing in between.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import Protocol

from starlette.types import Receive, Scope, Send

from dynamo._core.context import Context, handling
from dynamo._core.errors import DynamoError
from dynamo._core.trace import trace_metadata
from dynamo.frontend._active import ActiveRequest, ActiveRequests, ClientGone
from dynamo.frontend._body import read_json, request_id_of
from dynamo.frontend._errors import HttpError, status_of
from dynamo.frontend._reply import Reply
from dynamo.llm._models import Pipeline
from dynamo.llm._openai import OpenAIRequest, parse

logger = logging.getLogger(__name__)


class Models(Protocol):
    """The models that can be asked."""

    def pipeline(self, name: str, request: OpenAIRequest | None = None) -> Pipeline:
        """Return what answers for this model, or raise an error that says why it cannot be asked."""

    def names(self) -> list[str]:
        """The models that can be asked now, in order."""

    def created_s(self, name: str) -> int:
        """When this model came, in seconds of the Unix clock."""

    def instances(self) -> dict[str, list[str]]:
        """The live instances of each model."""

    def passed_over(self) -> list[str]:
        """Those of the live instances that were at fault lately, and have not answered since."""


class GenerateRoute:
    """Answers the requests of one kind."""

    def __init__(
        self, kind: type[OpenAIRequest], models: Models, active: ActiveRequests, *, body_size_bytes_max: int
    ) -> None:
        self._kind = kind
        self._models = models
        self._active = active
        self._body_size_bytes_max = body_size_bytes_max

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = Context(metadata=trace_metadata(scope["headers"]))
        with handling(context):
            await self._respond(context, scope, receive, send)

    async def _respond(self, context: Context, scope: Scope, receive: Receive, send: Send) -> None:
        reply = Reply(send, context.request_id)
        try:
            if scope["method"] != "POST":
                raise HttpError(405, "method_not_allowed", f"{scope['path']} takes POST only", allow="POST")
            with self._active.begin(request_id_of(scope) or context.request_id) as request:
                context.request_id, context.deadline = request.request_id, request.deadline
                reply = Reply(send, context.request_id)
                try:
                    await self._answer(request, context, reply, scope, receive)
                except BaseException as error:
                    # A cancellation with a reason is ours, and ends here, whatever came of it on its way.
                    if request.reason is None or not _uncancelled():
                        raise
                    raise request.reason from error
        except ClientGone:
            return
        except DynamoError as error:
            await self._refuse(error, reply)
        except Exception:
            logger.exception("a request failed because of a fault in the frontend")
            await self._refuse(DynamoError("internal error"), reply)

    async def _answer(
        self, active: ActiveRequest, context: Context, reply: Reply, scope: Scope, receive: Receive
    ) -> None:
        body = await read_json(scope, receive, self._body_size_bytes_max)
        active.watch(receive)
        request = parse(self._kind, body)
        pipeline = self._models.pipeline(request.model, request)
        _ = context.trace  # begun here, it is that of every choice and every worker
        if not request.stream:
            answer = await pipeline.complete(request, context)
            active.close()
            await reply.json(answer)
            return
        async with aclosing(pipeline.stream(request, context)) as chunks:
            async for ready in chunks:
                await reply.events(ready)
        active.close()
        await reply.done()

    async def _refuse(self, error: DynamoError, reply: Reply) -> None:
        if status_of(error) >= 500:
            logger.warning("a request failed with %d: %s", status_of(error), error)
        await reply.fail(error)


def _uncancelled() -> bool:
    """Take one cancellation back; whether none is left."""
    task = asyncio.current_task()
    return task is not None and task.uncancel() == 0

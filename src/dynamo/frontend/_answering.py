"""What every route that answers a request does around its answer: an id, a deadline, a client that may leave, errors.

These are plain ASGI callables: nothing stands between what answers and the server.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod

from starlette.types import Receive, Scope, Send

from dynamo._core.context import Context, handling
from dynamo._core.errors import DynamoError
from dynamo._core.trace import trace_metadata
from dynamo.frontend._active import ActiveRequest, ActiveRequests, ClientGone
from dynamo.frontend._body import request_id_of
from dynamo.frontend._errors import HttpRuleError, status_of
from dynamo.frontend._reply import Reply

logger = logging.getLogger(__name__)


class AnsweringRoute(ABC):
    """Answers POST requests, each as `_answer` does."""

    def __init__(self, active: ActiveRequests) -> None:
        self._active = active

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = Context(metadata=trace_metadata(scope["headers"]))
        with handling(context):
            await self._respond(context, scope, receive, send)

    @abstractmethod
    async def _answer(
        self, active: ActiveRequest, context: Context, reply: Reply, scope: Scope, receive: Receive
    ) -> None:
        """Read one request and reply to it."""

    async def _respond(self, context: Context, scope: Scope, receive: Receive, send: Send) -> None:
        reply = Reply(send, context.request_id)
        try:
            if scope["method"] != "POST":
                raise HttpRuleError(405, "method_not_allowed", f"{scope['path']} takes POST only", allow="POST")
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

    async def _refuse(self, error: DynamoError, reply: Reply) -> None:
        if status_of(error) >= 500:
            logger.warning("a request failed with %d: %s", status_of(error), error)
        await reply.fail(error)


def _uncancelled() -> bool:
    """Take one cancellation back; whether none is left."""
    task = asyncio.current_task()
    return task is not None and task.uncancel() == 0

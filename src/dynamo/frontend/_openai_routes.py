"""The routes that generate: read a request, find its model, and pass the answer on.

What happens per token is one `send` of everything that is ready, and nothing in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from typing import Protocol

from starlette.types import Receive, Scope

from dynamo._core.context import Context
from dynamo.frontend._active import ActiveRequest, ActiveRequests
from dynamo.frontend._answering import AnsweringRoute
from dynamo.frontend._body import read_json
from dynamo.frontend._explain import comment_of, with_decisions
from dynamo.frontend._reply import Reply
from dynamo.frontend._routing_headers import hints_of
from dynamo.frontend._tenant_header import take_tenant
from dynamo.llm._models import Pipeline
from dynamo.llm._openai import OpenAIRequest, parse
from dynamo.llm._routing import Router


class Models(Protocol):
    """The models that can be asked."""

    def pipeline(self, name: str, request: OpenAIRequest | None = None) -> Pipeline:
        """Return what answers for this model, or raise an error that says why it cannot be asked."""

    def names(self) -> list[str]:
        """The models that can be asked now, in order."""

    def created_s(self, name: str) -> int:
        """When this model came, in seconds of the Unix clock."""

    def user_data(self, name: str) -> Mapping[str, object]:
        """What whoever registered a model says of it; empty if nothing."""

    def instances(self) -> dict[str, list[str]]:
        """The live instances of each model."""

    def passed_over(self) -> list[str]:
        """Those of the live instances that were at fault lately, and have not answered since."""

    def routers(self) -> dict[str, Router]:
        """The router of each model that has one."""

    def router_warnings(self) -> list[str]:
        """What is wrong with routing now, in a sentence each."""


class GenerateRoute(AnsweringRoute):
    """Answers the requests of one kind."""

    def __init__(
        self, kind: type[OpenAIRequest], models: Models, active: ActiveRequests, *, body_size_bytes_max: int
    ) -> None:
        super().__init__(active)
        self._kind = kind
        self._models = models
        self._body_size_bytes_max = body_size_bytes_max

    async def _answer(
        self, active: ActiveRequest, context: Context, reply: Reply, scope: Scope, receive: Receive
    ) -> None:
        body = await read_json(scope, receive, self._body_size_bytes_max)
        active.watch(receive)
        request = parse(self._kind, body)
        take_tenant(scope["headers"], request)
        hints = hints_of(scope["headers"], request.nvext)
        pipeline = self._models.pipeline(request.model, request)
        _ = context.trace  # begun here, it is that of every choice and every worker
        if not request.stream:
            answer = await pipeline.complete(request, context, hints)
            if hints.explanation is not None:
                answer = with_decisions(answer, hints.explanation.take())
            active.close()
            await reply.json(answer)
            return
        async with aclosing(pipeline.stream(request, context, hints)) as chunks:
            async for ready in chunks:
                if hints.explanation is not None and (decisions := hints.explanation.take()):
                    await reply.comment(comment_of(decisions))
                await reply.events(ready)
        active.close()
        await reply.done()

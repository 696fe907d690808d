"""The story of one request that is passed on: read, place, send, relay."""

from __future__ import annotations

from starlette.types import Receive, Scope

from dynamo._core.context import Context
from dynamo._core.errors import Disconnected, StreamIncomplete
from dynamo.frontend._active import ActiveRequest, ActiveRequests
from dynamo.frontend._answering import AnsweringRoute
from dynamo.frontend._body import read_body
from dynamo.frontend._reply import Reply
from dynamo.frontend._route.attempts import Attempts, Request
from dynamo.frontend._route.prompts import CHAT, COMPLETIONS, Prompts, fields_of
from dynamo.frontend._route.relay import relay
from dynamo.frontend._route.router import BackendRouter
from dynamo.frontend._route.salts import salt_of, with_salt
from dynamo.frontend._routing_headers import hints_of

#: What is sent to them is cached.
_CACHED = (CHAT, COMPLETIONS)

_OURS = b"x-dynamo-"
_REQUEST_ID = b"x-request-id"
_ENCODING = b"accept-encoding"


class PassRoute(AnsweringRoute):
    """Passes the requests to one path on."""

    def __init__(
        self,
        path: str,
        active: ActiveRequests,
        router: BackendRouter,
        prompts: Prompts,
        attempts: Attempts,
        *,
        body_size_bytes_max: int,
    ) -> None:
        super().__init__(active)
        self._path = path
        self._router = router
        self._prompts = prompts
        self._attempts = attempts
        self._body_size_bytes_max = body_size_bytes_max

    async def _answer(
        self, active: ActiveRequest, context: Context, reply: Reply, scope: Scope, receive: Receive
    ) -> None:
        body = await read_body(scope, receive, self._body_size_bytes_max)
        active.watch(receive)
        hints = hints_of(scope["headers"], None)
        fields, salt = fields_of(body), None
        if self._path in _CACHED:
            salt = salt_of(scope["headers"], fields)
            body = with_salt(body, fields, salt)
        prompt = await self._prompts.read(self._path, fields)
        asked = hints.asked(body, context, prompt.token_ids, ())
        asked.lora_name, asked.cache_namespace = prompt.lora_name, salt
        is_explained = hints.explanation is not None
        request = Request("POST", _target(scope), _headers(scope, context.request_id, is_explained), body, prompt.model)
        route = await self._router.place(asked)
        try:
            begun = await self._attempts.send(request, route)
            try:
                route.note_answer()
                decision = route.decision if is_explained else None
                await relay(begun, reply, route, [] if decision is None else [decision])
            except (Disconnected, StreamIncomplete) as error:
                self._attempts.note_lost(begun.backend, error)
                raise
            finally:
                begun.close()
        finally:
            route.close()
        active.close()
        await reply.end()


def _target(scope: Scope) -> str:
    query = scope["query_string"].decode("latin-1")
    return f"{scope['path']}?{query}" if query else str(scope["path"])


def _headers(scope: Scope, request_id: str, is_explained: bool) -> list[tuple[bytes, bytes]]:
    """The client's headers without those that are for us, and with the id under which the request is known here."""
    left_out = (_REQUEST_ID, _ENCODING) if is_explained else (_REQUEST_ID,)
    headers = [(name, value) for name, value in scope["headers"] if name not in left_out and not name.startswith(_OURS)]
    return [*headers, (_REQUEST_ID, request_id.encode("latin-1"))]

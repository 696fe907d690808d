"""What HTTP clients are told when something goes wrong.

What a method says in an error whose status it chose itself (`dynamo.llm.HttpError`) they read as it is.
"""

from __future__ import annotations

from dynamo._core.errors import DynamoError
from dynamo.runtime._http_status import chosen_status, status_of
from dynamo.sdk._context import request_context

#: Of those that may be asked again; they are told when.
TRY_AGAIN = (503, 529)

_TRY_AGAIN = "the service cannot take the request now; try again later"
_PUBLIC = {
    **dict.fromkeys(TRY_AGAIN, _TRY_AGAIN),
    504: "the request took too long",
}
_FAILED = "the service failed; its log says why"


Problem = dict[str, dict[str, str]]


def problem_of(error: DynamoError) -> Problem:
    """Return the body of the answer for an error of ours."""
    if chosen_status(error) is not None:
        return _body(str(error.details.get("code", error.code)), error.message)
    return problem(error.code, status_of(error), str(error))


def problem(code: str, status: int, message: str) -> Problem:
    """Return the body of an answer. Clients read what they did wrong; what went wrong inside is not theirs."""
    return _body(code, message if status < 500 else _PUBLIC.get(status, _FAILED))


def _body(code: str, message: str) -> Problem:
    context = request_context.get()
    request_id = "" if context is None else context.request_id
    return {"error": {"code": code, "message": message, "request_id": request_id}}

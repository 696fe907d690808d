"""What HTTP clients are told when something goes wrong."""

from __future__ import annotations

from dynamo.sdk._context import request_context

#: Of those that may be asked again; they are told when.
TRY_AGAIN = (503, 529)

_TRY_AGAIN = "the service cannot take the request now; try again later"
_PUBLIC = {
    **dict.fromkeys(TRY_AGAIN, _TRY_AGAIN),
    504: "the request took too long",
}
_FAILED = "the service failed; its log says why"


def problem(code: str, status: int, message: str) -> dict[str, dict[str, str]]:
    """Return the body of an answer. Clients read what they did wrong; what went wrong inside is not theirs."""
    context = request_context.get()
    return {
        "error": {
            "code": code,
            "message": message if status < 500 else _PUBLIC.get(status, _FAILED),
            "request_id": "" if context is None else context.request_id,
        }
    }

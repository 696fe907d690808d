"""From an error to an HTTP answer.

What a client did wrong it is told as it is, and so is which of its wishes no worker meets, and what a handler says
in an error whose status it chose itself. Of what else goes wrong inside (a status from 500 on) it gets a sentence
from the table here: what the error itself says names instances, addresses and settings, which are for the log.

A stream that has begun cannot change its status any more, so the same error object travels in it as
its last event.
"""

from __future__ import annotations

import msgspec

from dynamo._core.errors import (
    CannotConnect,
    DeadlineExceeded,
    Disconnected,
    DynamoError,
    EngineShutdown,
    IncompatibleVersion,
    NoInstances,
    Overloaded,
    ProtocolError,
    RouterQueueLimitExceeded,
    Stalled,
    StreamIncomplete,
    Unauthorized,
    WorkerUnavailable,
)
from dynamo._core.request_plane import UNSENDABLE
from dynamo.llm._poison import PoisonedRequest
from dynamo.llm._routing import NoWorkerFits
from dynamo.runtime import _http_status
from dynamo.runtime._http_status import chosen_status

_TYPES = {
    500: "server_error",
    502: "bad_gateway_error",
    503: "service_unavailable_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_OTHER = "invalid_request_error"

_LOST = "the worker that answered was lost: send the request again"
_BROKEN = "the server and its worker do not work together; the server's log says why"

#: What a client is told of an error inside, by its code or a closer one in its details: what happened, and what to do.
_PUBLIC = {
    "model_loading": "the model is being loaded: try again in a moment",
    "no_worker_left": "every worker that serves the model was lost while it had this request: try again in a moment",
    "all_workers_busy": "all workers that could take the request are busy: try again later",
    "token_out_of_range": "the worker answered with a token that the model does not have; the server's log says which",
    "wrong_index": "the worker answered what was not asked for; the server's log says more",
    "wrong_log_probs": "the worker sent log probabilities that are none: leave out 'logprobs', or try again",
    "no_finish": "the worker ended its answer without a finish reason; the server's log says more",
    "cancelled_by_the_worker": "the worker gave the request up before its answer was complete: send it again",
    UNSENDABLE: "the worker's answer has a part that cannot be sent: the server's log says which",
    NoInstances.code: "no worker serves the model right now: try again in a moment",
    CannotConnect.code: "no worker could be reached: try again in a moment",
    WorkerUnavailable.code: "the model cannot be served right now: try again in a moment",
    EngineShutdown.code: "what answers is shutting down: send the request again, or to another server",
    Overloaded.code: "the server has too much to do: try again later",
    RouterQueueLimitExceeded.code: "as many requests wait as may: try again later",
    Disconnected.code: _LOST,
    StreamIncomplete.code: _LOST,
    Stalled.code: "the worker did not answer in time: send the request again",
    DeadlineExceeded.code: "the request was not answered in time: send it again, or ask for less",
    Unauthorized.code: _BROKEN,
    IncompatibleVersion.code: _BROKEN,
    ProtocolError.code: _BROKEN,
    PoisonedRequest.code: "workers were lost while they answered this very request: do not send it again soon",
}
_FAILED = "the server failed to answer; its log says why"


class HttpRuleError(DynamoError):
    """The request breaks a rule of HTTP; `status` says which. The client is told it as it is, from 500 on, too."""

    code = "http_error"

    def __init__(self, status: int, code: str, message: str, **details: str) -> None:
        super().__init__(message, code=code, **details)
        self.status = status


def status_of(error: DynamoError) -> int:
    """Return the status that this error is answered with."""
    if isinstance(error, HttpRuleError):
        return error.status
    return _http_status.status_of(error)


def headers_of(error: DynamoError) -> list[tuple[bytes, bytes]]:
    """Return the headers that belong to this error's answer."""
    headers = []
    if status_of(error) in (503, 529):
        known = error.details.get("retry_after") if isinstance(error, HttpRuleError) else None
        headers.append((b"retry-after", str(known or _http_status.retry_after_s(error)).encode()))
    if "allow" in error.details:
        headers.append((b"allow", str(error.details["allow"]).encode("latin-1")))
    return headers


def body_of(error: DynamoError, request_id: str = "") -> bytes:
    """Return the error object of the OpenAI API, as JSON. The request's id is how the log is searched for the rest."""
    param = error.details.get("param")
    code = str(error.details.get("code", error.code))
    is_chosen = chosen_status(error) is not None
    message = error.message if is_chosen else str(error)
    if status_of(error) >= 500 and not is_chosen and not isinstance(error, NoWorkerFits | HttpRuleError):
        message = _PUBLIC.get(code) or _PUBLIC.get(error.code, _FAILED)
        message += f" (request {request_id})" if request_id else ""
    return msgspec.json.encode(
        {
            "error": {
                "message": message,
                "type": _TYPES.get(status_of(error), _OTHER if status_of(error) < 500 else _TYPES[500]),
                "param": None if param is None else str(param),
                "code": code,
            }
        }
    )

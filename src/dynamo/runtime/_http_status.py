"""From an error to an HTTP status: the one table, and the word of handlers that choose a status themselves.

What they choose stands among the details of their error, so that it crosses the network.
"""

from __future__ import annotations

import math

from dynamo._core.errors import (
    Cancelled,
    CannotConnect,
    ConfigError,
    DeadlineExceeded,
    Disconnected,
    DynamoError,
    EngineShutdown,
    HandlerError,
    IncompatibleVersion,
    InvalidArgument,
    NoInstances,
    NotFound,
    NoWorkerFits,
    Overloaded,
    ProtocolError,
    RouterQueueLimitExceeded,
    Stalled,
    StreamIncomplete,
    Unauthorized,
    WorkerUnavailable,
)

#: An error's code -> the status it is answered with.
STATUS: dict[str, int] = {
    InvalidArgument.code: 400,
    NotFound.code: 404,
    Cancelled.code: 499,
    DynamoError.code: 500,
    HandlerError.code: 500,
    ConfigError.code: 500,
    ProtocolError.code: 502,
    # Between our own processes: the client's credentials are not at fault, and asking again does not help.
    Unauthorized.code: 502,
    IncompatibleVersion.code: 502,
    Disconnected.code: 502,
    StreamIncomplete.code: 502,
    NoInstances.code: 503,
    NoWorkerFits.code: 503,
    CannotConnect.code: 503,
    WorkerUnavailable.code: 503,
    EngineShutdown.code: 503,
    Overloaded.code: 503,
    RouterQueueLimitExceeded.code: 529,
    DeadlineExceeded.code: 504,
    Stalled.code: 504,
}

#: The detail of a handler's error that says its HTTP status.
HTTP_STATUS = "http_status"
STATUS_MAX = 599
#: A smaller status is that of no error.
ERROR_STATUS_MIN = 400

#: After how many seconds a client may try again that is told so, if nobody knows better.
RETRY_AFTER_S = 1


def chosen_status(error: DynamoError) -> int | None:
    """Return the status that a handler here or elsewhere chose for its error; None if it chose none."""
    status = error.details.get(HTTP_STATUS) if isinstance(error, HandlerError) else None
    return status if isinstance(status, int) and ERROR_STATUS_MIN <= status <= STATUS_MAX else None


def status_of(error: DynamoError) -> int:
    """Return the status that this error is answered with: that which was chosen, or else that of its class.

    A class without one has its parent's.
    """
    if (chosen := chosen_status(error)) is not None:
        return chosen
    tree = (kind for kind in type(error).__mro__ if issubclass(kind, DynamoError))
    return next(STATUS[kind.code] for kind in tree if kind.code in STATUS)


def retry_after_s(error: DynamoError) -> int:
    """Return what `Retry-After` says beside a 503 or a 529: whole seconds, at least one.

    That is what an `Overloaded` knows of itself, rounded up, or else `RETRY_AFTER_S`. It says nothing of errors with
    another status: they have no such header.
    """
    hint_s = error.retry_after_s if isinstance(error, Overloaded) else None
    return RETRY_AFTER_S if hint_s is None else max(1, math.ceil(hint_s))

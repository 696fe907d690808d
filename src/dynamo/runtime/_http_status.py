"""From an error to an HTTP status: the one table."""

from __future__ import annotations

from dynamo._core.errors import (
    Cancelled,
    CannotConnect,
    ConfigError,
    DeadlineExceeded,
    Disconnected,
    DynamoError,
    EngineShutdown,
    HandlerError,
    InvalidArgument,
    NoInstances,
    NotFound,
    Overloaded,
    ProtocolError,
    StreamIncomplete,
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
    Disconnected.code: 502,
    StreamIncomplete.code: 502,
    NoInstances.code: 503,
    CannotConnect.code: 503,
    WorkerUnavailable.code: 503,
    EngineShutdown.code: 503,
    Overloaded.code: 503,
    DeadlineExceeded.code: 504,
}


def status_of(error: DynamoError) -> int:
    """Return the status that this error is answered with; a class without one has its parent's."""
    tree = (kind for kind in type(error).__mro__ if issubclass(kind, DynamoError))
    return next(STATUS[kind.code] for kind in tree if kind.code in STATUS)

"""The error tree, and how an error crosses the network.

Every error of ours is a `DynamoError`. Its class is what you catch; its `code` is what travels and
never changes. On the wire an error is a list of layers, the error itself first and its causes after
it, so that the far side sees the same chain. An exception that is not ours (a handler's own
`ValueError`) travels as a `HandlerError` that keeps the type's name and the message, and stays one
layer however many hops it makes.
"""

from __future__ import annotations

import itertools
from typing import ClassVar

import msgspec

CAUSES_MAX = 8
MESSAGE_CHARS_MAX = 8192
DETAILS_MAX = 32
DETAIL_CHARS_MAX = 1024

Detail = str | int | float


class DynamoError(Exception):
    """Anything that goes wrong in the system; `details` keeps the parts of the message."""

    code: ClassVar[str] = "unknown"
    #: Whether a peer told of it: what it speaks of happened there, or beyond.
    is_remote = False

    # Positional only: a detail may have any name, and a peer chooses the names.
    def __init__(self, message: str, /, **details: Detail) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class InvalidArgument(DynamoError):
    """The request is wrong, and would be wrong anywhere."""

    code = "invalid_argument"


class NotFound(DynamoError):
    """The thing that the request names does not exist."""

    code = "not_found"


class NoInstances(DynamoError):
    """Nothing serves this endpoint right now."""

    code = "no_instances"


class CannotConnect(DynamoError):
    """The peer could not be reached; it has seen nothing of the request."""

    code = "cannot_connect"


class Disconnected(DynamoError):
    """The peer was lost while the request ran."""

    code = "disconnected"


class StreamIncomplete(DynamoError):
    """A stream ended without its final frame, or with items missing."""

    code = "stream_incomplete"


class DeadlineExceeded(DynamoError):
    """The request's time was up."""

    code = "deadline_exceeded"


class Cancelled(DynamoError):
    """The caller gave the request up."""

    code = "cancelled"


class Overloaded(DynamoError):
    """A limit is reached; try again later, or elsewhere."""

    code = "overloaded"


class WorkerUnavailable(DynamoError):
    """The instance is alive but does not take this request."""

    code = "worker_unavailable"


class EngineShutdown(DynamoError):
    """The instance stopped before the request was done."""

    code = "engine_shutdown"


class ProtocolError(DynamoError):
    """The peer sent bytes that are not our protocol, or not of a version we speak."""

    code = "protocol_error"


class ConfigError(DynamoError):
    """A setting is wrong; the message names it and says what would be right."""

    code = "config_error"


class HandlerError(DynamoError):
    """The code that serves an endpoint raised; `type_name` is the class of what it raised."""

    code = "handler_error"

    def __init__(self, message: str, /, **details: Detail) -> None:
        super().__init__(message, **details)
        self.type_name = str(details.get("type_name", "Exception"))

    def __str__(self) -> str:
        return f"{self.type_name}: {self.message}"


class WireError(msgspec.Struct, array_like=True, frozen=True):
    """One layer of an error on the wire."""

    code: str
    message: str
    details: dict[str, Detail] = {}


_BY_CODE: dict[str, type[DynamoError]] = {
    error.code: error
    for error in (
        DynamoError, InvalidArgument, NotFound, NoInstances, CannotConnect, Disconnected, StreamIncomplete,
        DeadlineExceeded, Cancelled, Overloaded, WorkerUnavailable, EngineShutdown, ProtocolError, ConfigError,
        HandlerError,
    )
}  # fmt: skip


def to_wire(error: BaseException) -> list[WireError]:
    """Return the error and its causes, outermost first, at most `CAUSES_MAX` layers.

    It never fails: an error that could not be sent would leave the caller waiting.
    """
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and id(current) not in map(id, chain) and len(chain) < CAUSES_MAX:
        chain.append(current)
        current = _cause(current)
    return list(map(_layer, chain))


def from_wire(layers: list[WireError]) -> DynamoError:
    """Rebuild the error with its causes; an unknown code becomes a plain `DynamoError`."""
    if not layers:
        return DynamoError("the peer reported an error without saying which")
    errors = [
        _BY_CODE.get(layer.code, DynamoError)(layer.message[:MESSAGE_CHARS_MAX], **layer.details)
        for layer in layers[:CAUSES_MAX]
    ]
    for error, cause in itertools.pairwise(errors):
        error.__cause__ = cause
    errors[0].is_remote = True
    return errors[0]


def _cause(error: BaseException) -> BaseException | None:
    if error.__cause__ is not None:
        return error.__cause__
    if isinstance(error, BaseExceptionGroup):  # what was raised inside says more than what it was raised in
        return error.exceptions[0]
    return None if error.__suppress_context__ else error.__context__


def _layer(error: BaseException) -> WireError:
    if isinstance(error, DynamoError):
        details = itertools.islice(error.details.items(), DETAILS_MAX)
        sendable = {_text(name, DETAIL_CHARS_MAX): _detail(value) for name, value in details}
        return WireError(error.code, _text(error.message, MESSAGE_CHARS_MAX), sendable)
    type_name = _text(type(error).__name__, DETAIL_CHARS_MAX)
    return WireError(HandlerError.code, _text(error, MESSAGE_CHARS_MAX), {"type_name": type_name})


def _detail(value: object) -> Detail:
    if isinstance(value, float) or (isinstance(value, int) and -(1 << 63) <= value < 1 << 63):
        return value
    return _text(value, DETAIL_CHARS_MAX)


def _text(value: object, chars_max: int) -> str:
    """Return what `value` says, as text that can be encoded."""
    try:
        text = str(value)
    except Exception as error:  # whatever somebody's __str__ raises
        text = f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"
    return text[:chars_max].encode("utf-8", "replace").decode()

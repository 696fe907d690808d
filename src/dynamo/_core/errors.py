"""The error tree, and how an error crosses the network.

Every error of ours is a `DynamoError`. Its class is what you catch; its `code` is what travels and
never changes. On the wire an error is a list of layers, the error itself first and its causes after
it, so that the far side sees the same chain. An exception that is not ours (a handler's own
`ValueError`) travels as a `HandlerError` that keeps the type's name and the message, and stays one
layer however many hops it makes.
"""

from __future__ import annotations

import itertools
import math
from typing import Annotated, ClassVar

import msgspec

from dynamo._core.limits import (
    ERROR_CAUSES_MAX,
    ERROR_DETAIL_CHARS_MAX,
    ERROR_DETAILS_MAX,
    ERROR_DETAILS_READ_MAX,
    ERROR_MESSAGE_CHARS_MAX,
    ITEM_OVERHEAD_BYTES,
)
from dynamo._core.stability import stable

#: The detail of a refusal that its sender was given by somebody else, and passes on: the sender may have begun.
RELAYED = "relayed"

Detail = str | int | float


@stable(since="0.1")
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


@stable(since="0.1")
class InvalidArgument(DynamoError, ValueError):
    """The request is wrong, and would be wrong anywhere."""

    code = "invalid_argument"


class NotFound(DynamoError):
    """The thing that the request names does not exist."""

    code = "not_found"


@stable(since="0.1")
class NoInstances(DynamoError):
    """Nothing serves this endpoint right now."""

    code = "no_instances"


class NoWorkerFits(NoInstances):
    """There are workers, and none of them is what the request itself asks for."""

    code = "no_worker_fits"


@stable(since="0.1")
class CannotConnect(DynamoError):
    """The peer could not be reached; it has seen nothing of the request."""

    code = "cannot_connect"


class Unauthorized(CannotConnect):
    """The peer asks for a cluster token or a certificate, and ours is not the one; or the other way round."""

    code = "unauthorized"


class IncompatibleVersion(CannotConnect):
    """The peer speaks a version of the protocol that this process does not."""

    code = "incompatible_version"


@stable(since="0.1")
class Disconnected(DynamoError):
    """The peer was lost while the request ran."""

    code = "disconnected"


@stable(since="0.1")
class Stalled(Disconnected):
    """The peer is there as far as anybody can see, but says nothing: it is stopped, or no item came in time."""

    code = "stalled"


@stable(since="0.1")
class StreamIncomplete(DynamoError):
    """A stream ended without its final frame, or with items missing."""

    code = "stream_incomplete"


@stable(since="0.1")
class DeadlineExceeded(DynamoError):
    """The request's time was up, or its reader has taken nothing for too long."""

    code = "deadline_exceeded"


class Cancelled(DynamoError):
    """The caller gave the request up."""

    code = "cancelled"


@stable(since="0.1")
class Overloaded(DynamoError):
    """A limit is reached, and the request has not begun; try again later, or elsewhere."""

    code = "overloaded"

    @property
    def retry_after_s(self) -> float | None:
        """After how long another try makes sense; None if who is overloaded cannot tell."""
        after_s = self.details.get("retry_after_s")
        # A peer may have written it.
        return after_s if isinstance(after_s, int | float) and 0 <= after_s < math.inf else None


class RouterQueueLimitExceeded(Overloaded):
    """As many requests wait in a router's queue as may; the details say in which, and what its limit is."""

    code = "router_queue_limit_exceeded"

    def __init__(self, message: str, /, **details: Detail) -> None:
        super().__init__(message, **details)
        self.policy_class = str(details.get("policy_class", ""))
        self.limit_kind = str(details.get("limit_kind", ""))
        self.current = details.get("current")
        self.limit = details.get("limit")


@stable(since="0.1")
class WorkerUnavailable(DynamoError):
    """The instance is alive but does not take this request: it has not begun there."""

    code = "worker_unavailable"


@stable(since="0.1")
class EngineShutdown(DynamoError):
    """The instance stopped before the request was done."""

    code = "engine_shutdown"


class ProtocolError(DynamoError):
    """The peer sent bytes that are not our protocol, or not of a version we speak."""

    code = "protocol_error"


class ConfigError(DynamoError, ValueError):
    """A setting is wrong; the message names it and says what would be right."""

    code = "config_error"


class WrongUsage(ConfigError):
    """A command line asks for what cannot be, and nothing was done; the message says what would be right."""


@stable(since="0.1")
class HandlerError(DynamoError):
    """The code that serves an endpoint raised; `type_name` is the class of what it raised."""

    code = "handler_error"

    def __init__(self, message: str, /, **details: Detail) -> None:
        super().__init__(message, **details)
        self.type_name: str = str(details.get("type_name", "Exception"))

    def __str__(self) -> str:
        return f"{self.type_name}: {self.message}"


@stable(since="0.1")
class WireError(msgspec.Struct, array_like=True, frozen=True):
    """One layer of an error on the wire."""

    code: str
    message: str
    details: Annotated[dict[str, Detail], msgspec.Meta(max_length=ERROR_DETAILS_READ_MAX)] = {}

    @property
    def size_bytes(self) -> int:
        """What it weighs on its way, about."""
        parts = [self.message, *self.details, *(value for value in self.details.values() if isinstance(value, str))]
        return sum(map(len, parts)) + ITEM_OVERHEAD_BYTES * (1 + len(self.details))


_BY_CODE: dict[str, type[DynamoError]] = {
    error.code: error
    for error in (
        DynamoError, InvalidArgument, NotFound, NoInstances, NoWorkerFits, CannotConnect, Unauthorized,
        IncompatibleVersion, Disconnected, Stalled, StreamIncomplete, DeadlineExceeded, Cancelled, Overloaded,
        RouterQueueLimitExceeded, WorkerUnavailable, EngineShutdown, ProtocolError, ConfigError, HandlerError,
    )
}  # fmt: skip


def to_wire(error: BaseException) -> list[WireError]:
    """Return the error and its causes, outermost first, at most `ERROR_CAUSES_MAX` layers.

    It never fails: an error that could not be sent would leave the caller waiting.
    """
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and id(current) not in map(id, chain) and len(chain) < ERROR_CAUSES_MAX:
        chain.append(current)
        current = _cause(current)
    return list(map(_layer, chain))


def from_wire(layers: list[WireError]) -> DynamoError:
    """Rebuild the error with its causes; an unknown code becomes a plain `DynamoError`."""
    if not layers:
        return DynamoError("the peer reported an error without saying which")
    errors = [
        _BY_CODE.get(layer.code, DynamoError)(layer.message[:ERROR_MESSAGE_CHARS_MAX], **layer.details)
        for layer in layers[:ERROR_CAUSES_MAX]
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
        details = itertools.islice(error.details.items(), ERROR_DETAILS_MAX)
        sendable = {_text(name, ERROR_DETAIL_CHARS_MAX): _detail(value) for name, value in details}
        return WireError(error.code, _text(error.message, ERROR_MESSAGE_CHARS_MAX), sendable)
    type_name = _text(type(error).__name__, ERROR_DETAIL_CHARS_MAX)
    return WireError(HandlerError.code, _text(error, ERROR_MESSAGE_CHARS_MAX), {"type_name": type_name})


def _detail(value: object) -> Detail:
    # Of subclasses (bool, numpy's float64) the value: the wire does not know them, and one that it does not take
    # would end the connection with all that is on it.
    if isinstance(value, float):
        return float(value)
    if isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
        return int(value)
    return _text(value, ERROR_DETAIL_CHARS_MAX)


def _text(value: object, chars_max: int) -> str:
    """Return what `value` says, as text that can be encoded."""
    try:
        text = str(value)
    except Exception as error:  # whatever somebody's __str__ raises
        text = f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"
    return text[:chars_max].encode("utf-8", "replace").decode()

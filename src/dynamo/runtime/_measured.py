"""What an endpoint, and those who call it, have done, as plain numbers.

Serving and calling add to them, and `/metrics` reads them.
"""

from __future__ import annotations

from bisect import bisect_left
from enum import StrEnum
from typing import TYPE_CHECKING

from dynamo.runtime._quarantine import Fault

if TYPE_CHECKING:
    from dynamo._core.request_plane import Listener
    from dynamo.runtime._call import Caller

#: Upper bounds of the buckets of the request durations, in seconds; one more bucket takes the rest.
DURATION_BUCKETS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
)  # fmt: skip


class ErrorType(StrEnum):
    """Where a request failed: these and no others, so that the series are bounded."""

    DESERIALIZATION = "deserialization"  # the request could not be read
    GENERATE = "generate"  # the handler raised
    SERIALIZATION = "serialization"  # what the handler gave could not be encoded
    PUBLISH_RESPONSE = "publish_response"  # an item could not be sent


class RejectReason(StrEnum):
    """Why a request was refused before it began."""

    QUEUE_FULL = "queue_full"  # as many run and wait as may
    QUEUE_TIMEOUT = "queue_timeout"  # no place came free in time


class Measured:
    """The counters of one endpoint in one process; they live as long as its runtime.

    A request counts when it comes. It then ends once: well, with an error, rejected, or cancelled, by its
    caller, by its deadline or by the end of the instance.
    """

    __slots__ = (
        "_closed_response_bytes",
        "buckets",
        "canaries",
        "canary_failures",
        "cancelled",
        "cleanup_s",
        "drain_s",
        "duration_sum_s",
        "endpoint",
        "errors",
        "listeners",
        "queued",
        "rejected",
        "request_bytes",
        "requests",
    )

    def __init__(self, endpoint: str) -> None:
        self.endpoint: str = endpoint  # as it is called in the log
        self.requests: int = 0
        self.request_bytes: int = 0
        self._closed_response_bytes = 0
        #: Those that are open.
        self.listeners: list[Listener] = []
        self.cancelled: int = 0
        self.errors: dict[ErrorType, int] = dict.fromkeys(ErrorType, 0)
        self.rejected: dict[RejectReason, int] = dict.fromkeys(RejectReason, 0)
        self.queued: int = 0  # requests that wait for a place now
        self.canaries: int = 0  # requests of our own, which are not among the others
        self.canary_failures: int = 0
        self.buckets: list[int] = [0] * (len(DURATION_BUCKETS_S) + 1)
        self.duration_sum_s: float = 0.0
        #: When an instance closed last: how long requests were given to finish, and how long the others took to end.
        self.drain_s: float = 0.0
        self.cleanup_s: float = 0.0

    @property
    def inflight(self) -> int:
        """Requests that have come and not ended."""
        return self.requests - sum(self.buckets)

    def end(self, duration_s: float) -> None:
        """A request has ended, however."""
        self.duration_sum_s += duration_s
        self.buckets[bisect_left(DURATION_BUCKETS_S, duration_s)] += 1

    @property
    def response_bytes(self) -> int:
        """The bytes of the items that were sent, of requests that have ended."""
        return self._closed_response_bytes + sum(listener.sent_bytes for listener in self.listeners)

    def note_closed(self, listener: Listener, took_s: float, drain_s: float) -> None:
        """An instance took so long to close; for `drain_s` of it requests might finish."""
        self.listeners.remove(listener)
        self._closed_response_bytes += listener.sent_bytes
        self.drain_s = min(took_s, drain_s)
        self.cleanup_s = took_s - self.drain_s


class RetryReason(StrEnum):
    """Why a request that nobody had begun was sent to another instance; the codes of the errors."""

    CANNOT_CONNECT = "cannot_connect"
    WORKER_UNAVAILABLE = "worker_unavailable"
    OVERLOADED = "overloaded"


class StallPhase(StrEnum):
    """Which item of a stream did not come in time."""

    FIRST_ITEM = "first_item"
    INTER_ITEM = "inter_item"


class Called:
    """The counters of those who call one endpoint from this process; they live as long as its runtime."""

    __slots__ = ("callers", "quarantined", "requests", "retries", "retries_denied", "stalls")

    def __init__(self) -> None:
        self.requests: int = 0
        self.retries: dict[RetryReason, int] = dict.fromkeys(RetryReason, 0)
        self.retries_denied: int = 0
        self.stalls: dict[StallPhase, int] = dict.fromkeys(StallPhase, 0)
        self.quarantined: dict[Fault, int] = dict.fromkeys(Fault, 0)
        #: The clients that are open.
        self.callers: list[Caller] = []

    @property
    def out(self) -> int:
        """Instances that are passed over now, each once for every client."""
        return sum(len(caller.quarantine.out) for caller in self.callers)

    @property
    def retries_left(self) -> int:
        """What the budgets of the clients have left."""
        return sum(caller.budget.left(caller.clock()) for caller in self.callers)

"""What an endpoint has done, as plain numbers: serving adds to them, and `/metrics` reads them."""

from __future__ import annotations

from bisect import bisect_left
from enum import StrEnum

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


class Measured:
    """The counters of one endpoint in one process; they live as long as its runtime.

    A request counts when it comes. It then ends once: well, with an error, or cancelled, by its caller, by
    its deadline or by the end of the instance.
    """

    __slots__ = ("buckets", "cancelled", "duration_sum_s", "endpoint", "errors", "request_bytes", "requests")

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint  # as it is called in the log
        self.requests = 0
        self.request_bytes = 0
        self.cancelled = 0
        self.errors = dict.fromkeys(ErrorType, 0)
        self.buckets = [0] * (len(DURATION_BUCKETS_S) + 1)
        self.duration_sum_s = 0.0

    @property
    def inflight(self) -> int:
        """Requests that have come and not ended."""
        return self.requests - sum(self.buckets)

    def end(self, duration_s: float) -> None:
        """A request has ended, however."""
        self.duration_sum_s += duration_s
        self.buckets[bisect_left(DURATION_BUCKETS_S, duration_s)] += 1

"""The work queue: work that waits until somebody is free to do it.

Each job is given to one consumer at a time, and is given out again until somebody has acknowledged it: at least
once, that is, and twice if a consumer dies between doing the work and saying so. Jobs are given out in the
order in which they came; those that are given out again go first where the implementation can do that. The suite
that every implementation passes is `tests/conformance/test_work_queue.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from dynamo._core.errors import InvalidArgument
from dynamo._core.limits import JOB_BYTES_MAX
from dynamo._core.stability import stable


@stable(since="0.1")
@dataclass(frozen=True, slots=True)
class QueueLimits:
    """What a queue holds, and what it puts up with."""

    #: Jobs that wait or are being worked on.
    jobs_max: int = 16384
    #: So long may a consumer take before the job is given to another, unless it asks for more time.
    visibility_s: float = 60.0
    #: A job that was given out so often without being acknowledged is given up: it may be what kills consumers.
    attempts_max: int = 5

    def __post_init__(self) -> None:
        for name, value in (("jobs_max", self.jobs_max), ("attempts_max", self.attempts_max)):
            if type(value) is not int:
                raise TypeError(f"{name}={value!r} is of type {type(value).__name__}: give an integer of 1 or more")
        if not isinstance(self.visibility_s, int | float) or isinstance(self.visibility_s, bool):
            kind = type(self.visibility_s).__name__
            raise TypeError(f"visibility_s={self.visibility_s!r} is of type {kind}: give seconds, more than 0")
        if self.jobs_max < 1 or self.attempts_max < 1 or not 0 < self.visibility_s < math.inf:
            raise InvalidArgument(f"a work queue needs limits above zero, not {self}")


class Job(Protocol):
    """A job that was given to us."""

    @property
    def payload(self) -> bytes: ...

    @property
    def attempt(self) -> int:
        """How often it was given to somebody, this time included."""

    async def ack(self) -> None:
        """The work is done: nobody gets the job again. Late is better than never: it counts even then.

        Raises a `DynamoError` if the queue cannot be reached; then somebody may get the job again.
        """

    async def nack(self) -> None:
        """Give the job back, at once to somebody else. If it is no longer ours, nothing happens."""

    async def extend(self) -> None:
        """Ask for another `visibility_s`, from now. If it is no longer ours, nothing happens."""


class WorkQueue(Protocol):
    """Jobs for whoever is free."""

    async def enqueue(self, payload: bytes) -> None:
        """Add a job; return when the queue has it.

        Raises `Overloaded` if the queue is full, `InvalidArgument` for a job over `JOB_BYTES_MAX`, and another
        `DynamoError` if the queue cannot be reached; after `Disconnected` or `DeadlineExceeded` it may have the job.
        """

    async def dequeue(self, timeout_s: float) -> Job | None:
        """Return the next job, waiting so long for one; None if there was none.

        A call that is cancelled loses no job, though one may be late by `visibility_s`. Raises a `DynamoError` if the
        queue cannot be reached.
        """

    async def size(self) -> int:
        """Return how many jobs wait or are being worked on: everything that was not acknowledged."""

    async def close(self) -> None:
        """Leave the queue. Jobs that are ours and not acknowledged are given to others, sooner or later."""


class ProvidedQueue(Protocol):
    """A queue that this process lets others use."""

    async def close(self) -> None:
        """Let nobody use it any more, unless it is on a server. A second call changes nothing."""


def check_job(payload: bytes) -> None:
    """Raise `InvalidArgument` for a job that no queue takes."""
    if len(payload) > JOB_BYTES_MAX:
        raise InvalidArgument(
            f"a job of {len(payload)} bytes exceeds the limit of {JOB_BYTES_MAX}; put the data elsewhere, and its "
            "address here",
            size_bytes=len(payload),
        )


def check_timeout(timeout_s: float) -> None:
    """Raise `InvalidArgument` for a time that nobody can wait."""
    if not 0 <= timeout_s < math.inf:
        raise InvalidArgument(f"one can wait for a job for some seconds, or 0: got timeout_s={timeout_s}")

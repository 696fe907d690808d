"""The event plane: one publisher, many listeners, and the truth about what was lost.

Events are hints: nothing correct may depend on one arriving, and publishing one never holds up the work that
it tells of. What is promised instead is that a listener knows what it missed. A publisher counts its events on
each subject from 1, and so every loss is seen: at once if an event follows it, and otherwise when the
publisher next says how far it has counted, which it does from time to time. The suite that every
implementation passes is `tests/conformance/test_event_plane.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from dynamo._core.address import check_subject
from dynamo._core.errors import InvalidArgument, Overloaded
from dynamo._core.limits import EVENT_BYTES_MAX, SUBSCRIPTIONS_MAX
from dynamo._core.stability import stable


@dataclass(frozen=True, slots=True)
class Event:
    """What a publisher said. `sequence` counts what it has said on this subject, from 1."""

    publisher_id: int
    sequence: int
    payload: bytes


@stable(since="0.1")
@dataclass(frozen=True, slots=True)
class Gap:
    """So many events of a publisher are missing here: `missed` of them, or None where nobody knows how many."""

    publisher_id: int
    missed: int | None


@dataclass(slots=True)
class EventStats:
    """What a plane has counted since it was opened."""

    num_published: int = 0
    #: Published, but not sent: the server was away, or could not keep up.
    num_dropped: int = 0
    #: Reported to readers in gaps.
    num_missed: int = 0
    #: Not our protocol, and therefore ignored.
    num_unreadable: int = 0
    #: Peers that have not proved what they should; or that had no such proof of ours.
    num_refused: int = 0


class Subscription(Protocol):
    """The events on one subject, of everyone who publishes there."""

    def __aiter__(self) -> Subscription: ...

    async def __anext__(self) -> Event | Gap:
        """Return the next event or gap, waiting for it. There is one reader at a time."""

    async def batch(self) -> list[Event | Gap]:
        """Return everything that has arrived, waiting for the first; an empty list at the end."""

    async def aclose(self) -> None:
        """End the subscription. A second call changes nothing."""


class EventPlane(Protocol):
    """Carries events from those who publish them to all who want to hear."""

    @property
    def publisher_id(self) -> int:
        """Names this plane among all publishers; another run of the same program has another."""

    @property
    def stats(self) -> EventStats: ...

    async def publish(self, subject: str, payload: bytes) -> None:
        """Tell everyone who listens now. It never waits, and never fails because nobody can hear.

        Raises `InvalidArgument` for a subject that is none or a payload over `EVENT_BYTES_MAX`, and
        `Overloaded` for one subject more than `SUBJECTS_MAX`.
        """

    def subscribe(self, subject: str) -> Subscription:
        """Begin to listen, at once, to those who publish now and those who come later.

        Events of one publisher come in order, each at most once. What is missing between two of them is
        reported as a `Gap` in its place. The first event that arrives of a publisher is where listening to it
        begins: if its `sequence` is not 1, there was something before. A reader that is slow loses the oldest
        events and is told so; it holds up nobody. Close the subscription, or the plane, to free what it holds.

        Raises `InvalidArgument` for a subject that is none, and `Overloaded` for one subscription more than
        `SUBSCRIPTIONS_MAX`.
        """

    async def close(self) -> None:
        """Leave: subscriptions end after what has arrived. A closed plane publishes nothing."""


def check_subscription(subject: str, num_open: int) -> None:
    """Raise unless a plane with so many subscriptions may have one more, to `subject`."""
    check_subject(subject)
    if num_open >= SUBSCRIPTIONS_MAX:
        raise Overloaded(f"this process has {SUBSCRIPTIONS_MAX} subscriptions to events; close those that are not read")


def check_payload(payload: bytes) -> None:
    """Raise `InvalidArgument` for a payload that is too large for an event."""
    if len(payload) > EVENT_BYTES_MAX:
        raise InvalidArgument(
            f"an event of {len(payload)} bytes exceeds the limit of {EVENT_BYTES_MAX}; send it in parts",
            size_bytes=len(payload),
        )

"""Events within one process: no bytes cross a socket, every other rule holds.

The reference for the other planes, and the air of the simulator. Planes that share one `EventBus` hear each
other, as processes would.
"""

from __future__ import annotations

import random as random_module
from collections.abc import Mapping

from dynamo._core.errors import DynamoError
from dynamo._core.event_plane._inbox import Inbox
from dynamo._core.event_plane._publisher import Publisher
from dynamo._core.event_plane.base import EventStats, check_subscription


class EventBus:
    """Carries events to the subscriptions of its planes at once. A subclass may delay, lose or repeat them."""

    def __init__(self) -> None:
        # Dicts for their order: who subscribed first hears first.
        self._inboxes: dict[str, dict[Inbox, None]] = {}

    def event(self, subject: str, publisher_id: int, sequence: int, payload: bytes) -> None:
        """Deliver an event."""
        for inbox in self._inboxes.get(subject, ()):
            inbox.push(publisher_id, sequence, payload)

    def head(self, subject: str, publisher_id: int, sequence: int) -> None:
        """Deliver how far a publisher has counted."""
        for inbox in self._inboxes.get(subject, ()):
            inbox.head(publisher_id, sequence)

    def add(self, inbox: Inbox) -> None:
        self._inboxes.setdefault(inbox.subject, {})[inbox] = None

    def remove(self, inbox: Inbox) -> None:
        """Forget a subscription; one that is not there is no error."""
        inboxes = self._inboxes.get(inbox.subject, {})
        inboxes.pop(inbox, None)
        if not inboxes:
            self._inboxes.pop(inbox.subject, None)


class InprocEventPlane:
    """One party on an `EventBus`; by default alone on its own."""

    def __init__(self, bus: EventBus | None = None, *, random: random_module.Random | None = None) -> None:
        self._bus = bus or EventBus()
        self._publisher = Publisher(self._say_heads, random=random)
        self._inboxes: dict[Inbox, None] = {}
        self._stats = EventStats()
        self._closed = False

    @property
    def publisher_id(self) -> int:
        return self._publisher.id

    @property
    def stats(self) -> EventStats:
        return self._stats

    async def publish(self, subject: str, payload: bytes) -> None:
        sequence = self._publisher.next(subject, payload)
        self._stats.num_published += 1
        self._bus.event(subject, self._publisher.id, sequence, bytes(payload))

    def subscribe(self, subject: str) -> Inbox:
        if self._closed:
            raise DynamoError("this event plane is closed; open a new one")
        check_subscription(subject, len(self._inboxes))
        inbox = Inbox(subject, self._stats, self._forget)
        self._inboxes[inbox] = None
        self._bus.add(inbox)
        return inbox

    async def close(self) -> None:
        self._closed = True
        self._publisher.close()
        for inbox in list(self._inboxes):
            inbox.end()
            await self._forget(inbox)

    async def _forget(self, inbox: Inbox) -> None:
        self._inboxes.pop(inbox, None)
        self._bus.remove(inbox)

    def _say_heads(self, heads: Mapping[str, int]) -> None:
        for subject, sequence in heads.items():
            self._bus.head(subject, self._publisher.id, sequence)

"""A publisher's side of the promise that every loss is seen: an id, a count for each subject, and heads.

Whoever misses the last event before a silence would never know. So the counts, called heads, are said again
while nothing is published: after a second, then ever more rarely.
"""

from __future__ import annotations

import asyncio
import random as random_module
from collections.abc import Callable, Mapping

from dynamo._core.address import check_subject
from dynamo._core.errors import DynamoError, Overloaded
from dynamo._core.event_plane.base import check_payload
from dynamo._core.limits import SUBJECTS_MAX

HEADS_S_MIN, HEADS_S_MAX = 1.0, 30.0


class Publisher:
    """Counts what one plane publishes. `say_heads` is called with the count of each subject."""

    def __init__(
        self,
        say_heads: Callable[[Mapping[str, int]], None],
        *,
        on_new_subject: Callable[[str], None] = lambda subject: None,
        random: random_module.Random | None = None,
    ) -> None:
        self.id = (random or random_module.SystemRandom()).randrange(1, 1 << 63)
        self._say_heads = say_heads
        self._on_new_subject = on_new_subject
        self._heads: dict[str, int] = {}
        self._delay_s = 0.0  # 0: heads are not being said
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def next(self, subject: str, payload: bytes) -> int:
        """Return the sequence of one more event."""
        if self._closed:
            raise DynamoError("this event plane is closed; open a new one")
        check_payload(payload)
        sequence = self._heads.get(subject, 0) + 1
        if sequence == 1:
            self._add(subject)
        self._heads[subject] = sequence
        if self._delay_s != HEADS_S_MIN:
            self._schedule(HEADS_S_MIN)
        return sequence

    def close(self) -> None:
        """Say nothing more. A second call changes nothing."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _add(self, subject: str) -> None:
        check_subject(subject)
        if len(self._heads) >= SUBJECTS_MAX:
            raise Overloaded(f"this process publishes on {SUBJECTS_MAX} subjects already, and on no more")
        self._on_new_subject(subject)

    def _schedule(self, delay_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._delay_s = delay_s
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._tick)

    def _tick(self) -> None:
        self._say_heads(self._heads)
        self._schedule(min(self._delay_s * 2, HEADS_S_MAX))

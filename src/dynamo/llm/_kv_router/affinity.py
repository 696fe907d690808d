"""Sessions: which worker the requests of each one go to, until none has come for a while.

A binding is a hint that is kept as long as it is right: a worker that is gone, or that the request must not go to,
loses the session to the one that is chosen next.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable

from dynamo._core.prefix_index import WorkerKey

#: The least recently used session is forgotten first.
SESSIONS_MAX = 100_000
#: By what the cost of a session's own worker is multiplied where sessions are soft: as if preferred with weight 1.
SOFT_FACTOR = math.exp(-math.tanh(1.0))


class Sessions:
    """The worker of each session."""

    def __init__(self, ttl_s: float, *, size_max: int = SESSIONS_MAX) -> None:
        self.ttl_s = ttl_s
        self._size_max = size_max
        # By session, the worker and until when it counts; the least recently used first.
        self._bound: OrderedDict[str, tuple[WorkerKey, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._bound)

    def find(self, session_id: str, now: float) -> WorkerKey | None:
        """Return the worker of a session; None if it has none."""
        bound = self._bound.get(session_id)
        if bound is None or bound[1] <= now:
            self._bound.pop(session_id, None)
            return None
        return bound[0]

    def bind(self, session_id: str, worker: WorkerKey, now: float) -> None:
        """Keep a session to a worker from now on, for as long as it is used."""
        self._bound[session_id] = worker, now + self.ttl_s
        self._bound.move_to_end(session_id)
        while len(self._bound) > self._size_max:
            self._bound.popitem(last=False)

    def merge(self, session_id: str, worker: WorkerKey, now: float, is_alive: Callable[[WorkerKey], bool]) -> None:
        """Hear from another router to which worker it has bound a session.

        If both have bound it at the same time, both come to keep the same worker: that with the smaller id. Of one
        that is not there the other router will learn, too, and nothing is to be had from it.
        """
        if not is_alive(worker):
            return
        own = self.find(session_id, now)
        self.bind(session_id, worker if own is None or not is_alive(own) else min(own, worker), now)

    def expire(self, now: float) -> None:
        """Forget the sessions that nobody has used for too long."""
        while self._bound:
            session_id, (_, until) = next(iter(self._bound.items()))
            if until > now:
                return
            del self._bound[session_id]

"""The route of one request through the KV router: its booking, from when it is placed until it ends."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Protocol

from dynamo._core.prefix_index import WorkerKey
from dynamo.llm._kv_router.decision import Decision, Decisions, Weighed
from dynamo.llm._kv_router.load import Booking
from dynamo.llm._kv_router.prompt import Prompt
from dynamo.llm._kv_router.selector import Selector
from dynamo.llm._routing import Asked


class Listener(Protocol):
    """Hears what becomes of requests: the other routers, or those who wait for room."""

    def booked(self, route: KvRoute, weighed: Weighed) -> None: ...

    def prefill_completed(self, route: KvRoute) -> None: ...

    def freed(self, route: KvRoute) -> None: ...


class Desk:
    """Where requests are booked: what the routes of one router share."""

    def __init__(self, selector: Selector, clock: Callable[[], float]) -> None:
        self.selector: Selector = selector
        self.clock: Callable[[], float] = clock
        self.decisions: Decisions = Decisions()
        self.listeners: list[Listener] = []

    def route(self, asked: Asked, block_size: int) -> KvRoute:
        """Return the route of a request that nobody has chosen a worker for yet."""
        began = perf_counter()
        prompt = Prompt.of(asked, block_size)
        self.selector.stats.hashing.add(perf_counter() - began)
        return KvRoute(self, asked, prompt)


class KvRoute:
    """Where one request goes; see `Route` in `_routing.py`."""

    __slots__ = (
        "_booking", "_desk", "_is_counted", "_is_reported", "_reserved_of", "asked", "prompt", "queue_s", "weighed",
    )  # fmt: skip

    def __init__(self, desk: Desk, asked: Asked, prompt: Prompt) -> None:
        self._desk = desk
        self.asked: Asked = asked
        self.prompt: Prompt = prompt
        #: For how many seconds it waited for room.
        self.queue_s: float = 0.0
        #: What was weighed for it the last time.
        self.weighed: Weighed | None = None
        self._booking: Booking | None = None
        # Booked with one of these before anybody asked where it goes: those who wait see that the room is taken.
        self._reserved_of: frozenset[int] = frozenset()
        self._is_counted = False
        self._is_reported = False

    @property
    def worker(self) -> WorkerKey | None:
        """Who has it."""
        return None if self.weighed is None else self.weighed.load.key

    @property
    def dp_rank(self) -> int | None:
        """The rank that is to take it; None if its worker has only one."""
        if self.weighed is None or self.weighed.load.facts.num_ranks == 1:
            return None
        return self.weighed.load.key.dp_rank

    @property
    def decision(self) -> Decision | None:
        """Why it goes there; None if nothing was weighed yet."""
        return None if self.weighed is None else self.weighed.decision()

    @property
    def is_open(self) -> bool:
        """Whether it is booked."""
        return self._booking is not None and self._booking.is_open

    @property
    def prefill_tokens(self) -> int:
        """What its worker has yet to compute of its prompt."""
        return 0 if self._booking is None else self._booking.prefill_tokens

    def reserve(self, ids: list[int]) -> None:
        """Book it now, with one of these; `choose` keeps to that unless it may go to one that was not weighed."""
        self._book(ids)
        self._reserved_of = frozenset(ids)

    def choose(self, ids: list[int]) -> int:
        """Book it with one of these, and return which; see `Route`."""
        reserved_of, self._reserved_of = self._reserved_of, frozenset()
        if self.weighed is not None and self.weighed.load.key.worker_id in ids and reserved_of.issuperset(ids):
            return self.weighed.load.key.worker_id
        return self._book(ids)

    def note_answer(self) -> None:
        """The first output is there: the prompt is computed. Another call changes nothing."""
        if self._booking is not None and self._booking.prefill_tokens:
            self._booking.complete_prefill()
            for listener in self._desk.listeners:
                listener.prefill_completed(self)

    def note_tokens(self, num_tokens: int) -> None:
        """So many tokens were generated since the last call."""
        if self._booking is not None:
            self._booking.grow(num_tokens)

    def note_cached(self, num_tokens: int) -> None:
        """The worker says how many tokens of the prompt it had cached. Another call changes nothing."""
        if self.is_open and self.weighed is not None and not self._is_reported:
            self._is_reported = True
            self._desk.selector.count_reported(self.weighed, max(0, min(num_tokens, self.prompt.num_tokens)))

    def close(self) -> None:
        """The request has ended, however. A second call changes nothing."""
        booking, self._booking = self._booking, None
        if booking is not None:
            booking.free()
            for listener in self._desk.listeners:
                listener.freed(self)

    def _book(self, ids: list[int]) -> int:
        began = perf_counter()
        self.close()
        desk = self._desk
        now = desk.clock()
        weighed = desk.selector.select(self.asked, self.prompt, ids, now)
        weighed.queue_s = self.queue_s
        self.weighed = weighed
        self._booking = desk.selector.book(weighed, self.asked, self.prompt, now)
        desk.decisions.add(weighed)
        for listener in desk.listeners:
            listener.booked(self, weighed)
        if not self._is_counted:
            self._is_counted = True
            desk.selector.count(weighed, self.prompt)
        desk.selector.stats.total.add(perf_counter() - began)
        return weighed.load.key.worker_id

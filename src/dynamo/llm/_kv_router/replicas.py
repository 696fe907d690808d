"""What the routers of the same workers tell each other: which requests run where, and whose a session is.

Best effort: what is lost makes loads a little wrong for a while, and then right again. A router repeats what runs
with it from time to time, and what it has not repeated is forgotten. No I/O; time is passed in.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict, deque
from dataclasses import dataclass

import msgspec

from dynamo._core.prefix_index import WorkerKey
from dynamo._core.stability import beta
from dynamo.llm._kv_router.affinity import Sessions
from dynamo.llm._kv_router.decision import Weighed
from dynamo.llm._kv_router.fleet import Fleet
from dynamo.llm._kv_router.load import Booking, Tracking
from dynamo.llm._kv_router.prompt import DEPTHS, Prompt
from dynamo.llm._kv_router.route import KvRoute
from dynamo.llm._wishes import NAME_CHARS_MAX

#: News in one message; a longer one is not listened to.
BATCH_MAX = 256
#: A request of more tokens than this is none.
TOKENS_MAX = 1 << 24
#: A request that runs is told of again after so long, and one that was not for so long is forgotten.
REPEAT_S = 100.0
STALE_S = 300.0
#: Requests of other routers that are remembered, and news of one's own that wait to be told.
REMOTE_MAX = 100_000
NEWS_MAX = 65_536


@beta(since="0.1")
class Added(msgspec.Struct, array_like=True, tag="a", frozen=True):
    """A request was booked; the router counts its requests."""

    number: int
    worker_id: int
    dp_rank: int
    num_tokens: int
    #: What is still to be computed of it: 0 once its prompt is.
    prefill_tokens: int
    checkpoints: list[int]


@beta(since="0.1")
class PrefillCompleted(msgspec.Struct, array_like=True, tag="p", frozen=True):
    """The prompt of a request is computed."""

    number: int


@beta(since="0.1")
class Freed(msgspec.Struct, array_like=True, tag="f", frozen=True):
    """A request has ended."""

    number: int


@beta(since="0.1")
class Bound(msgspec.Struct, array_like=True, tag="s", frozen=True):
    """A session belongs to a worker."""

    session_id: str
    worker_id: int
    dp_rank: int


News = Added | PrefillCompleted | Freed | Bound


@beta(since="0.1")
class Batch(msgspec.Struct, array_like=True, frozen=True):
    """What one router has to tell."""

    router_id: int
    block_size: int
    news: list[News]


@dataclass(slots=True)
class _Own:
    """A request of ours."""

    number: int
    added: Added
    told_at: float


@dataclass(slots=True)
class _Remote:
    """A request of another router."""

    booking: Booking
    heard_at: float


class Replicas:
    """Tells the other routers of our requests, and counts theirs."""

    def __init__(
        self, router_id: int, block_size: int, fleet: Fleet, tracking: Tracking, sessions: Sessions | None
    ) -> None:
        self._router_id = router_id
        self._block_size = block_size
        self._fleet = fleet
        self._tracking = tracking
        self._sessions = sessions
        self._numbers = itertools.count(1)
        self._now = 0.0
        # What is to be told; who tells it is woken by `on_news`.
        self._news: deque[News] = deque(maxlen=NEWS_MAX)
        # Ours, and those of others by their router and its number, each the longest silent first.
        self._own: OrderedDict[KvRoute, _Own] = OrderedDict()
        self._remote: OrderedDict[tuple[int, int], _Remote] = OrderedDict()
        #: What does not fit: messages of routers with another block size, and requests that cannot be, or are too many.
        self.num_ignored = 0

    @property
    def num_remote(self) -> int:
        """Requests of other routers that count at the moment."""
        return len(self._remote)

    # Telling.

    def booked(self, route: KvRoute, weighed: Weighed) -> None:
        key = weighed.load.key
        number = next(self._numbers)
        checkpoints = route.prompt.checkpoints if self._tracking.kv_reuse else []
        added = Added(number, key.worker_id, key.dp_rank, route.prompt.num_tokens, route.prefill_tokens, checkpoints)
        self._own[route] = _Own(number, added, self._now)
        self._news.append(added)
        if self._sessions is not None and route.asked.session_id is not None:
            self._news.append(Bound(route.asked.session_id, key.worker_id, key.dp_rank))

    def prefill_completed(self, route: KvRoute) -> None:
        own = self._own.get(route)
        if own is not None:
            own.added = msgspec.structs.replace(own.added, prefill_tokens=0)
            self._news.append(PrefillCompleted(own.number))

    def freed(self, route: KvRoute) -> None:
        own = self._own.pop(route, None)
        if own is not None:
            self._news.append(Freed(own.number))

    def has_news(self) -> bool:
        return bool(self._news)

    def batch(self) -> Batch:
        """Take what is to be told next."""
        news = [self._news.popleft() for _ in range(min(BATCH_MAX, len(self._news)))]
        return Batch(self._router_id, self._block_size, news)

    # Hearing.

    def hear(self, batch: Batch, now: float) -> None:
        """Take what another router tells; what comes back of our own is ignored."""
        if batch.router_id == self._router_id:
            return
        if batch.block_size != self._block_size or len(batch.news) > BATCH_MAX:
            self.num_ignored += 1
            return
        for news in batch.news:
            if isinstance(news, Added):
                self._hear_added((batch.router_id, news.number), news, now)
            elif isinstance(news, PrefillCompleted):
                if (remote := self._remote.get((batch.router_id, news.number))) is not None:
                    remote.booking.complete_prefill()
            elif isinstance(news, Freed):
                if (remote := self._remote.pop((batch.router_id, news.number), None)) is not None:
                    remote.booking.free()
            elif len(news.session_id) > NAME_CHARS_MAX:
                self.num_ignored += 1
            elif self._sessions is not None:
                worker = WorkerKey(news.worker_id, news.dp_rank)
                self._sessions.merge(news.session_id, worker, now, self._fleet.is_alive)

    def _hear_added(self, key: tuple[int, int], news: Added, now: float) -> None:
        known = self._remote.get(key)
        if known is not None and known.booking.is_open:
            known.heard_at = now
            self._remote.move_to_end(key)
            if not news.prefill_tokens:
                known.booking.complete_prefill()
            return
        load = self._fleet.find(WorkerKey(news.worker_id, news.dp_rank))
        if load is None or len(self._remote) >= REMOTE_MAX or not _makes_sense(news, self._block_size):
            self.num_ignored += 1
            return
        # What contradicts the requests that are known is shared with none of them.
        checkpoints = news.checkpoints if self._fleet.active.continues(load, news.checkpoints) else []
        prompt = Prompt.heard(news.num_tokens, self._block_size, checkpoints)
        self._remote[key] = _Remote(self._fleet.book(load, prompt, news.prefill_tokens, self._tracking), now)

    # Time goes by.

    def tick(self, now: float) -> None:
        """Repeat what runs with us, and forget what others have not repeated."""
        self._now = now
        while self._own and (first := next(iter(self._own.items())))[1].told_at + REPEAT_S <= now:
            first[1].told_at = now
            self._own.move_to_end(first[0])
            self._news.append(first[1].added)
        while self._remote and (oldest := next(iter(self._remote.items())))[1].heard_at + STALE_S <= now:
            del self._remote[oldest[0]]
            oldest[1].booking.free()


def _makes_sense(news: Added, block_size: int) -> bool:
    """Whether the numbers fit each other, or a load would be negative."""
    num_full_blocks = news.num_tokens // block_size
    return 0 <= news.prefill_tokens <= news.num_tokens <= TOKENS_MAX and (
        len(news.checkpoints) < len(DEPTHS) and DEPTHS[len(news.checkpoints)] <= num_full_blocks
    )

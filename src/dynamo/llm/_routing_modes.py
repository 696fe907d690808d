"""The simple ways to choose a worker: they look at how many requests each has, or at nothing.

- random: any of them.
- power_of_two: the one with fewer requests of two that are drawn.
- least_loaded: the one with the fewest requests; of several, one that is drawn.
- device_aware_weighted: the same, with the requests divided by the `device_weight` of the worker's model card.
- direct: the one that the request names, and no other.
- round_robin: the next in turn. Requests that ask for nothing special take the client's own way, without a router.

Whatever the mode, a request that names its worker gets that one, and one that requires taints gets a worker that has
them. Workers with several data parallel ranks count as so many workers. A request counts where it was sent until its
route is closed; the routers of other processes are not known.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Sequence

from dynamo._core.errors import InvalidArgument
from dynamo._core.prefix_index import WorkerKey
from dynamo.llm._kv_router.affinity import Sessions
from dynamo.llm._kv_router.config import NO_THRESHOLDS, RouterMode
from dynamo.llm._kv_router.eligible import eligible
from dynamo.llm._kv_router.fleet import Fleet
from dynamo.llm._kv_router.load import Booking, Load, Tracking
from dynamo.llm._kv_router.prompt import Prompt
from dynamo.llm._mode_decision import ModeChoice, ModeDecision, ModeDecisions
from dynamo.llm._routing import Asked, RoutedWorkers

#: How often workers that have left are looked for, at most.
REFRESH_S = 1.0

#: The load of each worker that comes into question -> the position of the one that is taken.
Pick = Callable[[Sequence[float], random.Random], int]

_NOTHING_BUT_REQUESTS = Tracking(prefill_tokens=False, active_blocks=False, output_blocks=False, kv_reuse=False)
_NO_PROMPT = Prompt(0, 1, [])


def pick_random(loads: Sequence[float], rng: random.Random) -> int:
    """Any of them."""
    return rng.randrange(len(loads))


def pick_of_two(loads: Sequence[float], rng: random.Random) -> int:
    """The less loaded of two that are drawn."""
    if len(loads) == 1:
        return 0
    one, other = rng.sample(range(len(loads)), 2)
    return one if loads[one] <= loads[other] else other


def pick_least(loads: Sequence[float], rng: random.Random) -> int:
    """The least loaded; of several, one that is drawn."""
    least = min(loads)
    return rng.choice([position for position, load in enumerate(loads) if load == least])


_PICKS: dict[RouterMode, Pick] = {
    RouterMode.Random: pick_random,
    RouterMode.PowerOfTwoChoices: pick_of_two,
    RouterMode.LeastLoaded: pick_least,
    RouterMode.DeviceAwareWeighted: pick_least,
}


class ModeRouter:
    """Chooses the workers of one model in one of these ways; see `Router`. Requests never wait here."""

    def __init__(
        self,
        mode: RouterMode,
        workers: RoutedWorkers,
        rng: random.Random,
        clock: Callable[[], float],
        *,
        session_ttl_s: float | None = None,
    ) -> None:
        self.mode = mode
        self.decisions = ModeDecisions()
        self._workers = workers
        self._rng = rng
        self._clock = clock
        self._sessions = None if session_ttl_s is None else Sessions(session_ttl_s)
        # The mutable state: who has how many requests, who was the last in turn, and when both were looked through.
        self._fleet = Fleet(workers)
        self._last = WorkerKey(-1, 0)
        self._refreshed = -REFRESH_S

    async def place(self, asked: Asked) -> ModeRoute:
        """Return the route of a request. Raises `InvalidArgument` for one that this mode cannot serve."""
        if asked.override is not None:
            raise InvalidArgument(
                f"router_config_override is for the router mode kv, and this one is {self.mode.value}: leave it out",
                param="nvext.router_config_override",
            )
        if self.mode is RouterMode.Direct and asked.pinned_instance is None:
            raise InvalidArgument(
                "the router mode is direct: each request must name its worker, in the header "
                "x-dynamo-worker-instance-id or in nvext.backend_instance_id",
                param="nvext.backend_instance_id",
            )
        self._refresh()
        return ModeRoute(self, asked)

    async def close(self) -> None:
        """There is nothing to stop."""

    def num_requests(self) -> int:
        """How many requests are with workers now."""
        return sum(load.num_requests for load in self._fleet.loads(self._workers.instance_ids()))

    def choose(self, asked: Asked, ids: list[int]) -> tuple[Load, Booking]:
        """Take one of these instances for a request, and count it there."""
        loads, excluded = eligible(asked, self._fleet.loads(ids), NO_THRESHOLDS)
        weighted = [self._weighted(load) for load in loads]
        position, by = self._position(asked, loads, weighted)
        load = loads[position]
        if self._sessions is not None and asked.session_id is not None:
            self._sessions.bind(asked.session_id, load.key, self._clock())
        self.decisions.add(
            ModeChoice(
                asked.context.request_id,
                self.mode.value,
                load.key,
                by,
                [(one.key, one.num_requests, weight) for one, weight in zip(loads, weighted, strict=True)],
                excluded,
            )
        )
        return load, self._fleet.book(load, _NO_PROMPT, 0, _NOTHING_BUT_REQUESTS)

    def _position(self, asked: Asked, loads: Sequence[Load], weighted: Sequence[float]) -> tuple[int, str]:
        if asked.pinned_instance is not None:
            return pick_least(weighted, self._rng), "the request"
        if self._sessions is not None and asked.session_id is not None:
            bound = self._sessions.find(asked.session_id, self._clock())
            for position, load in enumerate(loads):
                if load.key == bound:
                    return position, "the session"
        pick = _PICKS.get(self.mode)
        return (self._next_in_turn(loads) if pick is None else pick(weighted, self._rng)), "the mode"

    def _next_in_turn(self, loads: Sequence[Load]) -> int:
        position = bisect_right(loads, self._last, key=lambda load: load.key) % len(loads)
        self._last = loads[position].key
        return position

    def _weighted(self, load: Load) -> float:
        """How many requests a worker would have with this one, for each of its weight."""
        if self.mode is not RouterMode.DeviceAwareWeighted:
            return load.num_requests
        weight = self._workers.runtime_config(load.key.worker_id).get("device_weight", 1.0)
        usable = isinstance(weight, int | float) and not isinstance(weight, bool) and weight > 0
        return (load.num_requests + 1) / (weight if usable else 1.0)  # type: ignore[operator]  # it is a number

    def _refresh(self) -> None:
        """See who has come, changed and left, and which sessions have ended."""
        now = self._clock()
        if now - self._refreshed >= REFRESH_S:
            self._refreshed = now
            self._fleet.refresh(now)
            if self._sessions is not None:
                self._sessions.expire(now)


class ModeRoute:
    """Where one request goes; see `Route`."""

    __slots__ = ("_asked", "_booking", "_load", "_router")

    def __init__(self, router: ModeRouter, asked: Asked) -> None:
        self._router = router
        self._asked = asked
        self._load: Load | None = None
        self._booking: Booking | None = None

    @property
    def dp_rank(self) -> int | None:
        """The rank that is to take it; None if its worker has only one."""
        load = self._load
        return None if load is None or load.facts.num_ranks == 1 else load.key.dp_rank

    @property
    def decision(self) -> ModeDecision | None:
        return self._router.decisions.get(self._asked.context.request_id)

    def choose(self, ids: list[int]) -> int:
        self.close()
        self._load, self._booking = self._router.choose(self._asked, ids)
        return self._load.key.worker_id

    def note_answer(self) -> None:
        """Only how many requests there are counts here."""

    def note_tokens(self, num_tokens: int) -> None:
        """Only how many requests there are counts here."""

    def note_cached(self, num_tokens: int) -> None:
        """Caches do not count here."""

    def close(self) -> None:
        booking, self._booking = self._booking, None
        if booking is not None:
            booking.free()

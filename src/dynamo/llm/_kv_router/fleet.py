"""The workers that a router books requests with, as they come and go.

A worker that leaves may be back in a moment, with its requests still running and its cache as it was: what is known of
it is kept for a while. Then all that is booked with it is freed, whoever holds it, or a dead worker's load would count
for ever.
"""

from __future__ import annotations

from collections.abc import Mapping

from dynamo._core.prefix_index import WorkerKey
from dynamo.llm._kv_router.load import ActiveBlocks, Booking, Load, PotentialLoad, Tracking, WorkerFacts
from dynamo.llm._kv_router.prompt import Prompt
from dynamo.llm._routing import RoutedWorkers

#: So long a worker that is gone is expected back.
GONE_S = 60.0


class Fleet:
    """The load of each worker, and of each of its ranks."""

    def __init__(self, workers: RoutedWorkers) -> None:
        self._workers = workers
        self._by_id: dict[int, tuple[Load, ...]] = {}
        self._gone: dict[int, float] = {}
        # What each worker's card said when it was last looked at.
        self._configs: dict[int, Mapping[str, object]] = {}
        self.active: ActiveBlocks = ActiveBlocks()
        # The last answer of `loads`: nearly always the next one, too.
        self._asked: list[int] = []
        self._answer: list[Load] = []

    def loads(self, ids: list[int]) -> list[Load]:
        """Return the loads of these instances, rank by rank."""
        if ids != self._asked:
            self._answer = [load for id in ids for load in self._by_id.get(id) or self._add(id)]
            self._asked = list(ids)
        return self._answer

    def find(self, key: WorkerKey) -> Load | None:
        """Return the load of a worker; None for one that is not there."""
        ranks = self._by_id.get(key.worker_id)
        if ranks is None and key.worker_id in self._workers.instance_ids():
            ranks = self._add(key.worker_id)
        return next((load for load in ranks or () if load.key == key), None)

    def book(self, load: Load, prompt: Prompt, new_tokens: int, tracking: Tracking) -> Booking:
        """Count a request for a worker that has to compute so many of its tokens."""
        return Booking(self.active, load, prompt, new_tokens, tracking)

    def is_alive(self, key: WorkerKey) -> bool:
        """Whether a worker is there now, and has this rank."""
        return key.worker_id in self._workers.instance_ids() and self.find(key) is not None

    def potential(self, prompt: Prompt, loads: list[Load], overlaps: list[int]) -> list[PotentialLoad]:
        """Say what each worker would have to do with one more request, of which it has so many blocks cached."""
        shared = self.active.shared(prompt)
        return [
            PotentialLoad(
                load.key.worker_id,
                load.key.dp_rank,
                load.prefill_tokens + prompt.num_tokens - overlap * prompt.block_size,
                load.decode_blocks + prompt.num_blocks - shared.get(load, 0),
                load.num_requests,
            )
            for load, overlap in zip(loads, overlaps, strict=True)
        ]

    def refresh(self, now: float) -> list[WorkerKey]:
        """See who has come, changed and left. Returns the workers that are given up."""
        alive = self._workers.instance_ids()
        given_up: list[WorkerKey] = []
        for id in self._by_id.keys() - set(alive):
            if now - self._gone.setdefault(id, now) >= GONE_S:
                given_up += self._drop(id)
        for id in alive:
            self._gone.pop(id, None)
            self._see(id)
        return given_up

    def _see(self, id: int) -> None:
        """Read a worker's card again: it may have come later than the worker, or have changed."""
        config = self._workers.runtime_config(id)
        if id in self._by_id and self._configs.get(id) is config:
            return
        facts = WorkerFacts.read(config)
        ranks = self._by_id.get(id) or self._add(id)
        self._configs[id] = config
        if len(ranks) != facts.num_ranks:
            kept = {load.key: load for load in ranks}
            keys = [WorkerKey(id, rank) for rank in range(facts.num_ranks)]
            self._by_id[id] = tuple(kept.get(key) or Load(key, facts) for key in keys)
            self._asked = []
        for load in self._by_id[id]:
            load.facts = facts

    def _add(self, id: int) -> tuple[Load, ...]:
        facts = WorkerFacts.read(self._workers.runtime_config(id))
        ranks = tuple(Load(WorkerKey(id, rank), facts) for rank in range(facts.num_ranks))
        self._by_id[id] = ranks
        return ranks

    def _drop(self, id: int) -> list[WorkerKey]:
        self._gone.pop(id, None)
        self._configs.pop(id, None)
        self._asked = []
        ranks = self._by_id.pop(id)
        for load in ranks:
            for booking in list(load.bookings):
                booking.free()
        return [load.key for load in ranks]

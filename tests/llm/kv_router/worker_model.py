"""A model of workers with caches, small enough to send ten thousand requests through routers in a second.

Each worker computes prompts one after the other, finds what it has cached of them, and then generates all answers at
once, each step the slower the more there are. Its cache tells an index what it holds, some time later.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ParamSpec

from dynamo._core.blocks import block_hash_list, sequence_hashes
from dynamo._core.context import Context
from dynamo._core.prefix_index import PrefixIndex, WorkerKey
from dynamo.llm._kv_router.config import KvRouterConfig
from dynamo.llm._kv_router.decision import Weighed
from dynamo.llm._kv_router.fleet import Fleet
from dynamo.llm._kv_router.replicas import Replicas
from dynamo.llm._kv_router.route import Desk, KvRoute
from dynamo.llm._kv_router.selector import Selector
from dynamo.llm._routing import Asked

P = ParamSpec("P")

BLOCK_SIZE = 16
_VOCABULARY = range(100_000)
PREFILL_TOKENS_PER_S = 20_000.0
#: A step takes so long, and for each answer so much longer.
STEP_S = 0.010
STEP_PER_ANSWER_S = 0.0004
#: A message from a worker to the routers.
EVENT_DELAY_S = 0.002


class FixedWorkers:
    """Workers that are there, with what their cards say."""

    def __init__(self, ids: Sequence[int], configs: Mapping[int, Mapping[str, object]] | None = None) -> None:
        self.ids = list(ids)
        self.configs = dict(configs or {})
        #: How often somebody asked who is there.
        self.num_asked = 0

    def instance_ids(self) -> list[int]:
        self.num_asked += 1
        return list(self.ids)

    def runtime_config(self, instance_id: int) -> Mapping[str, object]:
        return self.configs.get(instance_id, {})


@dataclass(frozen=True, slots=True)
class Job:
    """A request of a trace."""

    at: float
    token_ids: list[int]
    num_output_tokens: int


@dataclass(slots=True)
class Outcome:
    """What became of a trace."""

    num_by_worker: dict[int, int]
    ttft_s: list[float] = field(default_factory=list)
    num_blocks: int = 0
    num_cached_blocks: int = 0
    num_wrongly_predicted: int = 0

    @property
    def imbalance(self) -> float:
        """Requests of the worker that got most, by what each would get if all got as many."""
        return max(self.num_by_worker.values()) * len(self.num_by_worker) / sum(self.num_by_worker.values())

    def ttft_quantile_s(self, part: float) -> float:
        return sorted(self.ttft_s)[int(part * (len(self.ttft_s) - 1))]

    @property
    def mean_ttft_s(self) -> float:
        return sum(self.ttft_s) / len(self.ttft_s)

    @property
    def hit_rate(self) -> float:
        return self.num_cached_blocks / self.num_blocks


class ModelWorker:
    """One worker: what it has cached, and until when it computes prompts."""

    def __init__(self, key: WorkerKey, room_blocks: int) -> None:
        self.key = key
        self.free_at = 0.0
        self.num_answers = 0
        self._room = room_blocks
        self._cached: OrderedDict[int, None] = OrderedDict()

    def take(self, now: float, tokens: int, names: Sequence[int]) -> tuple[int, float, list[int], list[int]]:
        """Compute a prompt: how many blocks were there, when it is done, and what was stored and evicted."""
        cacheable = min(len(names), (tokens - 1) // BLOCK_SIZE)
        hits = next((depth for depth in range(cacheable) if names[depth] not in self._cached), cacheable)
        stored = [name for name in names if name not in self._cached]
        for name in reversed(names):
            self._cached[name] = None
            self._cached.move_to_end(name)
        evicted = [self._cached.popitem(last=False)[0] for _ in range(max(0, len(self._cached) - self._room))]
        self.free_at = max(self.free_at, now) + (tokens - hits * BLOCK_SIZE) / PREFILL_TOKENS_PER_S
        return hits, self.free_at, stored, evicted


class Cluster:
    """Workers, and a clock that goes on as things happen."""

    def __init__(self, num_workers: int, *, room_blocks: int = 8192) -> None:
        self.workers = {id: ModelWorker(WorkerKey(id), room_blocks) for id in range(1, num_workers + 1)}
        self.index = PrefixIndex()
        self.now = 0.0
        self._numbers = itertools.count()
        self._later: list[tuple[float, int, Callable[[], None]]] = []

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._later, (when, next(self._numbers), what))

    def kv_desk(self, rng: random.Random, config: KvRouterConfig | None = None) -> Desk:
        """A KV router that knows what is cached from the workers' events."""
        fleet = Fleet(FixedWorkers(list(self.workers)))
        return Desk(Selector(fleet, config or KvRouterConfig(), rng, overlaps=self.index), lambda: self.now)

    def join(self, desks: Sequence[Desk]) -> None:
        """Have routers hear of each other's requests, some time later."""
        replicas = []
        for number, desk in enumerate(desks):
            settings = desk.selector.settings(None)
            one = Replicas(number + 1, BLOCK_SIZE, desk.selector.fleet, settings.tracking, desk.selector.sessions)
            replicas.append(one)
            desk.listeners.append(_Relay(self, one, replicas))

    def run(self, jobs: Sequence[Job], send: Callable[[Job], tuple[int, KvRoute | None]]) -> Outcome:
        """Have each request sent by `send`, and see it through."""
        outcome = Outcome(dict.fromkeys(self.workers, 0))
        for job in jobs:
            self.at(job.at, lambda job=job: self._begin(job, send, outcome))  # type: ignore[misc]
        while self._later:
            self.now, _, what = heapq.heappop(self._later)
            what()
        return outcome

    def _begin(self, job: Job, send: Callable[[Job], tuple[int, KvRoute | None]], outcome: Outcome) -> None:
        id, route = send(job)
        worker = self.workers[id]
        tokens_hashes = block_hash_list(job.token_ids, BLOCK_SIZE)
        names = list(sequence_hashes(tokens_hashes))
        hits, first_at, stored, evicted = worker.take(self.now, len(job.token_ids), names)
        outcome.num_by_worker[id] += 1
        outcome.ttft_s.append(first_at + STEP_S - self.now)
        outcome.num_blocks += len(names)
        outcome.num_cached_blocks += hits
        if route is not None and route.weighed is not None:
            outcome.num_wrongly_predicted += route.weighed.overlap_blocks != hits

        def answered() -> None:
            if stored:
                depth = len(names) - len(stored)
                parent = names[depth - 1] if depth else None
                self._tell(self.index.store, worker.key, parent, names[depth:], tokens_hashes[depth:])
            if evicted:
                self._tell(self.index.remove, worker.key, evicted)
            if route is not None:
                route.note_answer()
            worker.num_answers += 1
            takes_s = job.num_output_tokens * (STEP_S + STEP_PER_ANSWER_S * worker.num_answers)
            self.at(self.now + takes_s, ended)

        def ended() -> None:
            worker.num_answers -= 1
            if route is not None:
                route.close()

        self.at(first_at, answered)

    def _tell(self, change: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Have the index hear of a change."""

        def heard() -> None:
            change(*args, **kwargs)

        self.at(self.now + EVENT_DELAY_S, heard)


class _Relay:
    """Carries what one router has to tell to the others."""

    def __init__(self, cluster: Cluster, one: Replicas, all: list[Replicas]) -> None:
        self._cluster = cluster
        self._one = one
        self._all = all

    def booked(self, route: KvRoute, weighed: Weighed) -> None:
        self._one.booked(route, weighed)
        self._tell()

    def prefill_completed(self, route: KvRoute) -> None:
        self._one.prefill_completed(route)
        self._tell()

    def freed(self, route: KvRoute) -> None:
        self._one.freed(route)
        self._tell()

    def _tell(self) -> None:
        batch, cluster = self._one.batch(), self._cluster

        def heard() -> None:
            for one in self._all:
                one.hear(batch, cluster.now)

        cluster.at(cluster.now + EVENT_DELAY_S, heard)


def kv_sender(cluster: Cluster, desks: Sequence[Desk], rng: random.Random) -> Callable[[Job], tuple[int, KvRoute]]:
    """Send by KV routers, each request by one of them."""

    def send(job: Job) -> tuple[int, KvRoute]:
        route = rng.choice(desks).route(asked(job.token_ids), BLOCK_SIZE)
        return route.choose(list(cluster.workers)), route

    return send


def least_loaded_sender(cluster: Cluster, rng: random.Random) -> Callable[[Job], tuple[int, KvRoute | None]]:
    """Send to the worker with the fewest requests, known as a KV router knows it."""
    desk = cluster.kv_desk(rng)

    def send(job: Job) -> tuple[int, KvRoute | None]:
        loads = desk.selector.fleet.loads(list(cluster.workers))
        fewest = min(load.num_requests for load in loads)
        id = rng.choice([load.key.worker_id for load in loads if load.num_requests == fewest])
        route = desk.route(asked(job.token_ids, pinned=id), BLOCK_SIZE)
        route.choose(list(cluster.workers))
        return id, route

    return send


def round_robin_sender(cluster: Cluster) -> Callable[[Job], tuple[int, KvRoute | None]]:
    turns = itertools.cycle(cluster.workers)
    return lambda job: (next(turns), None)


def asked(token_ids: list[int], *, pinned: int | None = None) -> Asked:
    return Asked(request=None, context=Context(), token_ids=token_ids, pinned_instance=pinned)


def tokens(rng: random.Random, num: int) -> list[int]:
    return rng.choices(_VOCABULARY, k=num)


def trace(
    rng: random.Random, num: int, per_s: float, prompt: Callable[[], list[int]], mean_output_tokens: int = 150
) -> list[Job]:
    """Requests that come at random, so many a second."""
    at = 0.0
    jobs = []
    for _ in range(num):
        at += rng.expovariate(per_s)
        jobs.append(Job(at, prompt(), 1 + int(rng.expovariate(1 / mean_output_tokens))))
    return jobs

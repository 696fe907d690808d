"""What a KV router consists of: it opens what it needs, places requests, and looks after what is gone."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from typing import Self

from dynamo._core.context import Context
from dynamo._core.errors import DynamoError, InvalidArgument, NoInstances
from dynamo.llm._kv_counted_index import HasIndexStats, KvIndexStats
from dynamo.llm._kv_indexer import KvIndexer
from dynamo.llm._kv_router.admission import Admission
from dynamo.llm._kv_router.affinity import Sessions
from dynamo.llm._kv_router.bookings import NamedRoutes
from dynamo.llm._kv_router.config import (
    NO_THRESHOLDS,
    AffinityMode,
    KvRouterConfig,
    LoadThresholdConfig,
    check_affinity,
)
from dynamo.llm._kv_router.decision import Decisions
from dynamo.llm._kv_router.fleet import Fleet
from dynamo.llm._kv_router.given import IndexKind, check_arguments, index_kind_of, policy_of, sent_index_of
from dynamo.llm._kv_router.policy import Policy
from dynamo.llm._kv_router.queue import DEFAULT_CLASS
from dynamo.llm._kv_router.replica_sync import ReplicaSync
from dynamo.llm._kv_router.replicas import Replicas
from dynamo.llm._kv_router.route import Desk, KvRoute
from dynamo.llm._kv_router.selector import Overlaps, Selector
from dynamo.llm._kv_router.stats import RouterStats
from dynamo.llm._kv_router.workers import CardWorkers
from dynamo.llm._routing import Asked, RoutedWorkers
from dynamo.runtime import Client, Endpoint

logger = logging.getLogger(__name__)

#: How often the router looks after what is gone.
TICK_S = 1.0
#: What goes wrong then is said once in so long.
COMPLAIN_S = 60.0


class KvRouterCore:
    """The part of `KvRouter` that the pipeline asks; see `Router` in `_routing.py`."""

    def __init__(
        self,
        endpoint: Endpoint,
        block_size: int,
        kv_router_config: KvRouterConfig | None = None,
        *,
        session_affinity_ttl_secs: float | None = None,
        session_affinity_mode: AffinityMode = "hard",
        load_threshold_config: LoadThresholdConfig = NO_THRESHOLDS,
        policy: Policy | None = None,
        indexer: Overlaps | None = None,
        client: Client | None = None,
        workers: RoutedWorkers | None = None,
        rng: random.Random | None = None,
    ) -> None:
        check_arguments(endpoint, block_size, kv_router_config, load_threshold_config)
        check_affinity(session_affinity_ttl_secs, session_affinity_mode)
        config = kv_router_config or KvRouterConfig()
        #: Whose instances are the workers.
        self.endpoint: Endpoint = endpoint
        #: Tokens in a block of their caches.
        self.block_size: int = block_size
        self.config: KvRouterConfig = config
        self._component = endpoint.runtime.namespace(endpoint.id.namespace).component(endpoint.id.component)
        self._policy = policy_of(policy, config.policy)
        self._sessions = None if session_affinity_ttl_secs is None else Sessions(session_affinity_ttl_secs)
        self._affinity_mode = session_affinity_mode
        self._thresholds = load_threshold_config
        self._indexer = indexer
        self._client = client
        self._workers = workers
        self._rng = rng or endpoint.runtime.rng
        self._index_kind: IndexKind = index_kind_of(config, indexer)
        # What was opened here, and is closed here.
        self._own_client: Client | None = None
        self._own_workers: CardWorkers | None = None
        self._own_indexer: KvIndexer | None = None
        self._ticking: asyncio.Task[None] | None = None
        self._named = NamedRoutes()
        # The requests that are to be booked by their names, as long as they wait for room.
        self._waiting: dict[str, Context] = {}
        self._class_names = (DEFAULT_CLASS, *(one.name for one in config.policy_classes))
        self._admission: Admission | None = None
        self._sync: ReplicaSync | None = None
        # Made by `start`, of which there is one at a time.
        self._desk: Desk | None = None
        self._starting = asyncio.Lock()
        self._is_closed = False

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Begin to follow the workers; whoever asks something first has it done then. A second call changes nothing.

        Raises `DynamoError` if the planes cannot be reached, and may be called again after that.
        """
        async with self._starting:
            self._check_open()
            if self._desk is not None:
                return
            try:
                desk = await self._open()
                self._check_open()  # it may have been closed meanwhile
            except BaseException:
                await self._close_parts()
                self._forget_parts()
                raise
            self._desk = desk
            self._ticking = asyncio.create_task(self._tick_forever(desk))

    async def _ensure_started(self) -> None:
        if self._desk is None:
            await self.start()

    async def _open(self) -> Desk:
        """Open what is not given, and return where requests are booked."""
        config, clock = self.config, asyncio.get_running_loop().time
        if self._client is None:
            self._client = self._own_client = await self.endpoint.client()
        if self._workers is None:
            self._own_workers = CardWorkers(self.endpoint, self._client)
            await self._own_workers.start()
            self._workers = self._own_workers
        if self._indexer is None and config.use_kv_events and config.overlap_score_credit > 0:
            self._indexer = self._own_indexer = KvIndexer(self._component, self.block_size)
        fleet = Fleet(self._workers)
        selector = Selector(
            fleet, config, self._rng,
            overlaps=self._indexer, sent=sent_index_of(config, self._indexer), policy=self._policy,
            sessions=self._sessions, affinity_mode=self._affinity_mode, thresholds=self._thresholds,
        )  # fmt: skip
        desk = Desk(selector, clock)
        if config.queue_threshold is not None:
            self._admission = Admission(config, selector, self._alive, self._client.is_passed_over)
            desk.listeners.append(self._admission)
        if config.router_replica_sync:
            router_id = self._rng.getrandbits(63)
            tracking = selector.settings(None).tracking
            replicas = Replicas(router_id, self.block_size, fleet, tracking, self._sessions)
            self._sync = ReplicaSync(self._component, replicas)
            await self._sync.start()
            desk.listeners.append(self._sync)
        return desk

    async def close(self) -> None:
        """Stop following, and place no more requests. Open routes stay usable; a second call changes nothing."""
        self._is_closed = True
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.gather(self._ticking, return_exceptions=True)
            self._ticking = None
        self._named.close()
        if self._admission is not None:
            self._admission.close()
        await self._close_parts()

    async def _close_parts(self) -> None:
        """Close what was opened here; what was given stays as it is."""
        for one in (self._sync, self._own_indexer, self._own_workers, self._own_client):
            if one is not None:
                await one.close()

    def _forget_parts(self) -> None:
        """Be as before the start, which may be tried again."""
        if self._own_client is not None:
            self._client = None
        if self._own_workers is not None:
            self._workers = None
        if self._own_indexer is not None:
            self._indexer = None
        self._own_client, self._own_workers, self._own_indexer = None, None, None
        self._sync, self._admission = None, None

    # What the pipeline asks.

    @property
    def desk(self) -> Desk:
        """Where requests are booked. Raises `DynamoError` if the router was not started."""
        if self._desk is None:
            raise DynamoError("this KV router was not started: use `async with`, or await `start()`")
        return self._desk

    @property
    def index_kind(self) -> IndexKind:
        """What it goes by when it says what is cached where: see `KvRouter`."""
        return self._index_kind

    async def place(self, asked: Asked) -> KvRoute:
        """Return the route of a request; see `Router`."""
        self._check_open()
        await self._ensure_started()
        self.check(asked)
        route = self.desk.route(asked, self.block_size)
        if self._admission is not None:
            await self._admission.admit(route)
        return route

    def check(self, asked: Asked) -> None:
        """Raise `InvalidArgument` for what makes no sense, whether or not it would matter now.

        What is no number has no place in any order, and would take that of others away.
        """
        if asked.policy_class is not None and asked.policy_class not in self._class_names:
            raise InvalidArgument(
                f"there is no policy class {asked.policy_class!r}; there are {', '.join(self._class_names)}"
            )
        if not math.isfinite(asked.priority_jump):
            raise InvalidArgument(f"the priority of the request is {asked.priority_jump}: it must be a finite number")
        preferred = asked.constraints.preferred_taints
        if preferred and not all(map(math.isfinite, preferred.values())):
            raise InvalidArgument("a weight of the taints that the request prefers is not a finite number")

    @property
    def num_workers(self) -> int:
        """Workers that are alive."""
        return len(self._alive())

    def queue_lengths(self) -> dict[str, int]:
        """How many requests wait for room, by policy class; empty if none ever does."""
        return {} if self._admission is None else self._admission.lengths()

    def index_stats(self) -> KvIndexStats | None:
        """How large the index is that is made of events, and how that goes; None if there is none."""
        return self._indexer.stats() if isinstance(self._indexer, HasIndexStats) else None

    def num_sent_blocks(self) -> int | None:
        """How many blocks count as cached because they were sent somewhere; None if that is not remembered."""
        sent = self.desk.selector.sent
        return None if sent is None else sent.num_blocks

    @property
    def decisions(self) -> Decisions:
        """The most recent decisions."""
        return self.desk.decisions

    @property
    def stats(self) -> RouterStats:
        """What was counted."""
        return self.desk.selector.stats

    def _check_open(self) -> None:
        if self._is_closed:
            raise NoInstances(f"the KV router of {self.endpoint.id} is closed: it places no more requests")

    def _alive(self) -> list[int]:
        self.desk  # noqa: B018  # or nobody follows them
        assert self._workers is not None
        return self._workers.instance_ids()

    # What happens beside the requests.

    async def _tick_forever(self, desk: Desk) -> None:
        complained_at = -COMPLAIN_S
        while True:
            await asyncio.sleep(TICK_S)
            try:
                await self._tick(desk, desk.clock())
            except Exception:
                # The next time it may go well, and without it nobody would see workers come and go.
                if (now := desk.clock()) - complained_at >= COMPLAIN_S:
                    complained_at = now
                    logger.exception("the KV router of %s could not look after what is gone: a fault", self.endpoint.id)

    async def _tick(self, desk: Desk, now: float) -> None:
        """See which workers have come, changed and left, and forget what has had its time."""
        given_up = desk.selector.fleet.refresh(now)
        if self._admission is not None:
            self._admission.wake()
        self._named.expire(given_up)
        if self._sessions is not None:
            self._sessions.expire(now)
        if self._sync is not None:
            self._sync.tick(now)
        if (sent := desk.selector.sent) is not None:
            for worker in given_up:
                sent.remove_worker(worker)
            is_all = sent.expire(now)
            while not is_all:
                await asyncio.sleep(0)
                is_all = sent.expire(now)

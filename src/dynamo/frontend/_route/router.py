"""The router of a route: one of the frontend's, over servers that have no model cards and no events of ours."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from dynamo.frontend._route.backends import Backends
from dynamo.frontend._route.config import RouteConfig
from dynamo.frontend._route.events import BackendEvents
from dynamo.llm._kv_router.approx import BLOCKS_MAX
from dynamo.llm._kv_router.config import KvRouterConfig, RouterConfig, RouterMode
from dynamo.llm._kv_router.router import KvRouter
from dynamo.llm._routing import Asked, Route, Router
from dynamo.llm._routing_modes import ModeRouter
from dynamo.llm._zero_hits import LOOK_S, ZeroHits
from dynamo.runtime import DistributedRuntime

#: What the router is called where routers are told apart by the names of models: it is for all of them.
ALL_MODELS = "all"
#: One prompt may take so many of the blocks that are remembered as sent: a small part of them.
PROMPT_BLOCKS_MAX = BLOCKS_MAX // 64
#: The endpoint that the KV router is told of; nobody serves it.
_ENDPOINT = "route.backends.generate"


class BackendRouter:
    """Chooses servers, from `start` to `close`. The block size follows what the servers' events tell."""

    def __init__(self, backends: Backends, config: RouteConfig, runtime: DistributedRuntime) -> None:
        self._backends = backends
        self._config = config
        self._runtime = runtime
        self._parts = AsyncExitStack()
        self._zero_hits = ZeroHits()
        self._looking: asyncio.Task[None] | None = None
        # Made by `start`.
        self._router: Router | None = None
        self._kv_router: KvRouter | None = None
        self.events: BackendEvents | None = None

    async def start(self) -> None:
        """Begin to follow the servers' events."""
        config = self._config.router_config()
        if config.mode is not RouterMode.KV:
            clock = asyncio.get_running_loop().time
            self._router = ModeRouter(
                config.mode,
                self._backends,
                self._runtime.rng,
                clock,
                session_ttl_s=config.session_affinity_ttl_secs,
            )
            return
        kv_config = config.config or KvRouterConfig()
        if self._config.has_events:
            self.events = BackendEvents(self._backends, sent_ttl_s=kv_config.router_ttl_secs)
            self.events.start()
            self._parts.push_async_callback(self.events.close)
        self._router = self._kv_router = await self._parts.enter_async_context(self._kv(config, kv_config))
        if self.events is not None:
            self._kv_router.desk.listeners.append(self.events)
        self._looking = asyncio.create_task(self._look())
        self._parts.push_async_callback(_ended, self._looking)

    async def close(self) -> None:
        """Follow nobody any more. A second call changes nothing."""
        await self._parts.aclose()

    async def place(self, asked: Asked) -> Route:
        """Return the route of a request; see `Router`."""
        assert self._router is not None, "it was not started"
        if self._kv_router is not None:
            if self.events is not None:
                self._kv_router.block_size = self.events.block_size or self._kv_router.block_size
            if asked.token_ids is not None:
                asked.token_ids = asked.token_ids[: PROMPT_BLOCKS_MAX * self._kv_router.block_size]
        return await self._router.place(asked)

    def routers(self) -> dict[str, Router]:
        """The router, under the one name that it keeps whichever models come and go."""
        assert self._router is not None, "it was not started"
        return {ALL_MODELS: self._router}

    def router_warnings(self) -> list[str]:
        """What is wrong with routing now, in a sentence each."""
        return self._zero_hits.warnings

    def _kv(self, config: RouterConfig, kv_config: KvRouterConfig) -> KvRouter:
        return KvRouter(
            self._runtime.endpoint(_ENDPOINT),
            self._config.block_size,
            kv_config,
            session_affinity_ttl_secs=config.session_affinity_ttl_secs,
            session_affinity_mode=config.session_affinity_mode,
            load_threshold_config=config.load_thresholds,
            indexer=self.events,
            workers=self._backends,
        )

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self._zero_hits.look(self.routers())


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

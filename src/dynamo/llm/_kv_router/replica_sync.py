"""Routers of the same workers hear of each other's requests: see `replicas.py` for what they say."""

from __future__ import annotations

import asyncio
import logging

from dynamo._core.errors import DynamoError
from dynamo.llm._kv_router.decision import Weighed
from dynamo.llm._kv_router.replicas import Batch, Replicas
from dynamo.llm._kv_router.route import KvRoute
from dynamo.runtime import Component, Event, Subscription

logger = logging.getLogger(__name__)

TOPIC = "kv_router_sync"
#: News are told together with those that come so soon after.
BATCH_S = 0.001
_COMPLAIN_S = 60.0


class ReplicaSync:
    """Tells what `Replicas` has to tell, and hears the others, between `start` and `close`."""

    def __init__(self, component: Component, replicas: Replicas) -> None:
        self.replicas = replicas
        self._component = component
        self._has_news = asyncio.Event()
        self._heard: Subscription[Batch] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._complained_at = -_COMPLAIN_S

    async def start(self) -> None:
        """Raises `DynamoError` if the event plane cannot be reached."""
        self._heard = await self._component.subscribe(TOPIC, Batch)
        self._tasks = [asyncio.create_task(self._tell()), asyncio.create_task(self._hear(self._heard))]

    async def close(self) -> None:
        """Say and hear no more. A second call changes nothing."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        if self._heard is not None:
            await self._heard.aclose()
            self._heard = None

    def tick(self, now: float) -> None:
        """See `Replicas.tick`."""
        self.replicas.tick(now)
        self._wake()

    def booked(self, route: KvRoute, weighed: Weighed) -> None:
        self.replicas.booked(route, weighed)
        self._wake()

    def prefill_completed(self, route: KvRoute) -> None:
        self.replicas.prefill_completed(route)
        self._wake()

    def freed(self, route: KvRoute) -> None:
        self.replicas.freed(route)
        self._wake()

    def _wake(self) -> None:
        if self.replicas.has_news():
            self._has_news.set()

    async def _tell(self) -> None:
        while True:
            await self._has_news.wait()
            await asyncio.sleep(BATCH_S)
            self._has_news.clear()
            while self.replicas.has_news():
                await self._publish(self.replicas.batch())

    async def _publish(self, batch: Batch) -> None:
        try:
            await self._component.publish(TOPIC, batch)
        except DynamoError as error:
            now = asyncio.get_running_loop().time()
            if now - self._complained_at >= _COMPLAIN_S:
                self._complained_at = now
                logger.warning("other routers do not hear of this one's requests: %s", error)

    async def _hear(self, heard: Subscription[Batch]) -> None:
        while items := await heard.batch():
            now = asyncio.get_running_loop().time()
            for item in items:
                # What is lost, is said again or goes stale.
                if isinstance(item, Event):
                    self.replicas.hear(item.payload, now)

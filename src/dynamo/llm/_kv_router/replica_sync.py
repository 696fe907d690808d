"""Routers of the same workers hear of each other's requests: see `replicas.py` for what they say."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from dynamo._core.errors import DynamoError
from dynamo.llm._kv_router.decision import Weighed
from dynamo.llm._kv_router.replicas import Batch, Replicas
from dynamo.llm._kv_router.route import KvRoute
from dynamo.runtime import Event, Subscription
from dynamo.runtime._component import Component

logger = logging.getLogger(__name__)

TOPIC = "kv_router_sync"
#: News are told together with those that come so soon after.
BATCH_S = 0.001
#: Whoever starts waits so long for others to be heard.
FIRST_TRY_S = 1.0
RETRY_S_MIN, RETRY_S_MAX = 0.1, 2.0
_COMPLAIN_S = 60.0


class ReplicaSync:
    """Tells what `Replicas` has to tell, and hears the others, between `start` and `close`.

    While the event plane is away it tries again: what is said meanwhile is lost, and said again later.
    """

    def __init__(self, component: Component, replicas: Replicas) -> None:
        self.replicas = replicas
        self._component = component
        self._has_news = asyncio.Event()
        self._has_tried = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        # When it was said last that something does not work.
        self._complained_at: dict[str, float] = {}

    async def start(self) -> None:
        """Begin; return when the others are heard, or that did not work at first."""
        self._tasks = [asyncio.create_task(self._tell()), asyncio.create_task(self._hear_forever())]
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_TRY_S):
                await self._has_tried.wait()

    async def close(self) -> None:
        """Say and hear no more. A second call changes nothing."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

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
            self._complain("other routers do not hear of this one's requests", error)

    async def _hear_forever(self) -> None:
        delay_s, now = RETRY_S_MIN, asyncio.get_running_loop().time
        while True:
            began = now()
            try:
                async with await self._component.subscribe(TOPIC, Batch) as heard:
                    self._has_tried.set()
                    await self._hear(heard)
                return  # the runtime has ended
            except DynamoError as error:
                self._complain("the requests of other routers are not heard", error)
            except Exception:
                logger.exception("the requests of other routers are not heard for a moment: a fault")
            self._has_tried.set()
            if now() - began > RETRY_S_MAX:
                delay_s = RETRY_S_MIN  # they were heard for a while: this is another matter
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, RETRY_S_MAX)

    async def _hear(self, heard: Subscription[Batch]) -> None:
        while items := await heard.batch():
            now = asyncio.get_running_loop().time()
            for item in items:
                # What is lost, is said again or goes stale.
                if isinstance(item, Event):
                    self.replicas.hear(item.payload, now)
                    await asyncio.sleep(0)

    def _complain(self, what: str, error: DynamoError) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._complained_at.get(what, -_COMPLAIN_S) >= _COMPLAIN_S:
            self._complained_at[what] = now
            logger.warning("%s; trying again: %s", what, error)

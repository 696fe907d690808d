"""Registers a publisher in discovery: one key for each subject, on a lease of its own.

It works behind the back of whoever publishes, who must not wait: if discovery is away, it tries again until it
is back.
"""

from __future__ import annotations

import asyncio
import logging

from dynamo._core.address import event_channel_key
from dynamo._core.discovery import Discovery, Lease
from dynamo._core.errors import DynamoError, NotFound

logger = logging.getLogger(__name__)

RETRY_S_MIN, RETRY_S_MAX = 0.1, 5.0


class Announcer:
    """Says where a publisher is. The caller limits the number of subjects."""

    def __init__(self, discovery: Discovery, publisher_id: int, record: bytes) -> None:
        self._discovery = discovery
        self._publisher_id = publisher_id
        self._record = record
        self._lease: Lease | None = None
        self._subjects: list[str] = []
        self._num_registered = 0
        self._running: asyncio.Task[None] | None = None

    def announce(self, subject: str) -> None:
        """Register a subject soon."""
        self._subjects.append(subject)
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Unregister."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])
        if self._lease is not None:
            try:
                await self._lease.close()
            except DynamoError as error:
                logger.warning("an event publisher could not be unregistered; its lease will run out: %s", error)

    async def _run(self) -> None:
        delay_s = RETRY_S_MIN
        while self._num_registered < len(self._subjects):
            try:
                await self._register(self._subjects[self._num_registered])
                self._num_registered += 1
                delay_s = RETRY_S_MIN
            except NotFound:  # the lease is lost, and with it all that was registered
                self._lease = None
                self._num_registered = 0
                await asyncio.sleep(RETRY_S_MIN)
            except (DynamoError, OSError) as error:
                logger.warning("an event publisher cannot be registered; trying again in %.1f s: %s", delay_s, error)
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, RETRY_S_MAX)

    async def _register(self, subject: str) -> None:
        if self._lease is None:
            self._lease = await self._discovery.grant()
        await self._discovery.put(event_channel_key(subject, self._publisher_id), self._record, self._lease)

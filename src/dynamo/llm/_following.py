"""Models that come and go in discovery: how they are followed, their cards are read, and what is held of each."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing

from dynamo._core.address import EndpointId, parse_key
from dynamo._core.discovery.base import Delete, Put
from dynamo._core.errors import DynamoError
from dynamo.llm._model_card import ModelCard
from dynamo.llm._workers import Workers
from dynamo.runtime import DistributedRuntime

logger = logging.getLogger(__name__)


async def follow(
    runtime: DistributedRuntime,
    prefix: str,
    put: Callable[[Put], Awaitable[None]],
    delete: Callable[[str], Awaitable[None]],
    synced: Callable[[], None] | None = None,
) -> None:
    """Tell of everything that stands below a prefix, when that is all, and of every change, for ever."""
    try:
        async with aclosing(runtime.discovery.watch(prefix)) as changes:
            async for change in changes:
                if isinstance(change, Put):
                    await put(change)
                elif isinstance(change, Delete):
                    await delete(change.key)
                elif synced is not None:
                    synced()
    except Exception:
        logger.exception("%s is no longer followed: models that come or go from now on are not seen", prefix)
        raise


def card_of(change: Put) -> tuple[EndpointId, int, ModelCard] | None:
    """Return the card that was put, and whose it is; None for what is no card, of which the log tells."""
    try:
        endpoint, instance_id = parse_key(change.key)
        return endpoint, instance_id, ModelCard.from_json(change.value)
    except DynamoError as error:
        logger.warning("ignoring the model card at %s: %s", change.key, error)
        return None


class FollowedModel:
    """Who answers for a model: nobody until it is opened, and nobody if that failed."""

    def __init__(self) -> None:
        self.created_s = int(time.time())
        self.workers: Workers | None = None
        #: Why it cannot be asked.
        self.fault: Exception | None = None
        #: Finds its workers, beside everything else.
        self.opening: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Stop following its workers. Requests that run keep what they need of it until they end."""
        if self.opening is not None:
            self.opening.cancel()
            await asyncio.wait([self.opening])
        if self.workers is not None:
            await self.workers.close()

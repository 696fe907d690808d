"""How frontends find the router: under the model card of its workers, with its own endpoint."""

from __future__ import annotations

import asyncio
import logging

import msgspec

from dynamo._core.errors import DynamoError
from dynamo.llm._model_card import ModelCard
from dynamo.llm._workers import ROUTES_TO
from dynamo.router._workers import EndpointWorkers
from dynamo.runtime import Endpoint

logger = logging.getLogger(__name__)

#: The pause after discovery could not be told.
PAUSE_S = 1.0


class RouterCard:
    """Stands in discovery as long as the router has a worker, and says what the workers' cards say."""

    def __init__(self, endpoint: Endpoint, workers: EndpointWorkers) -> None:
        self._endpoint = endpoint
        self._workers = workers
        self._key = endpoint.id.model_card_key(endpoint.lease_id())
        self._told: ModelCard | None = None

    async def keep(self) -> None:
        """Tell discovery of every change, for ever."""
        while True:
            try:
                wanted = self._wanted()
                if wanted is None and self._told is not None:
                    logger.warning("the model %r is not listed: the router has no worker", self._told.display_name)
                await self._tell(wanted)
            except DynamoError as error:
                logger.warning("discovery could not be told of the model, and will be told again: %s", error)
                await asyncio.sleep(PAUSE_S)
                continue
            await self._workers.wait_for_change()

    async def withdraw(self) -> None:
        """Take it out. Discovery does so itself if it cannot be told now: it ends with the lease."""
        try:
            # Always: `keep` may have been cancelled while discovery was told, and nobody knows whether it was.
            await self._endpoint.runtime.discovery.delete(self._key)
        except DynamoError as error:
            logger.warning("discovery could not be told that the model is not served any more: %s", error)

    def _wanted(self) -> ModelCard | None:
        card = self._workers.card
        if card is None or not self._workers.instance_ids():
            return None
        # What a worker says of itself is not true of the router; that it is one is, and what all of them can do.
        common = self._workers.capabilities
        return msgspec.structs.replace(
            card,
            runtime_config={ROUTES_TO: str(self._workers.endpoint.id)},
            capabilities=None if common is None else sorted(common),
        )

    async def _tell(self, card: ModelCard | None) -> None:
        if card == self._told:
            return
        discovery = self._endpoint.runtime.discovery
        if card is None:
            await discovery.delete(self._key)
        else:
            await discovery.put(self._key, card.to_json(), self._endpoint.lease)
            logger.info("serving the model %r at %s", card.display_name, self._endpoint.id)
        self._told = card

"""The workers of an endpoint with what their model cards say, for routers that no pipeline tells of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from dynamo._core.address import parse_key
from dynamo._core.discovery.base import Put
from dynamo._core.errors import DynamoError
from dynamo.llm._following import follow
from dynamo.llm._model_card import ModelCard
from dynamo.runtime import Client, Endpoint

logger = logging.getLogger(__name__)

_NOTHING: Mapping[str, object] = {}


class CardWorkers:
    """All instances of an endpoint. Their cards are looked at as they come and go: see `RoutedWorkers`."""

    def __init__(self, endpoint: Endpoint, client: Client) -> None:
        self._endpoint = endpoint
        self._client = client
        self._configs: dict[int, Mapping[str, object]] = {}
        self._following: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read the cards that there are, and begin to follow them."""
        prefix = self._endpoint.id.model_card_key(0).removesuffix("0")
        for key, value in (await self._endpoint.runtime.discovery.get_prefix(prefix)).items():
            await self._put(Put(key, value))
        self._following = asyncio.create_task(follow(self._endpoint.runtime, prefix, self._put, self._delete))

    async def close(self) -> None:
        """Stop following. A second call changes nothing."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
            self._following = None

    def instance_ids(self) -> list[int]:
        return self._client.instance_ids()

    def runtime_config(self, instance_id: int) -> Mapping[str, object]:
        return self._configs.get(instance_id, _NOTHING)

    async def _put(self, change: Put) -> None:
        try:
            _, instance_id = parse_key(change.key)
            self._configs[instance_id] = ModelCard.from_json(change.value).runtime_config
        except DynamoError as error:
            logger.warning("ignoring the model card at %s: %s", change.key, error)

    async def _delete(self, key: str) -> None:
        self._configs.pop(parse_key(key)[1], None)

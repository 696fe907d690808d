"""The workers of an endpoint with what their model cards say, for routers that no pipeline tells of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from dynamo._core.address import parse_key
from dynamo._core.discovery.base import Put
from dynamo._core.errors import CannotConnect
from dynamo.llm._following import card_of, follow
from dynamo.runtime import Client, Endpoint

#: Discovery says so soon who is there.
START_S = 30.0

_NOTHING: Mapping[str, object] = {}


class CardWorkers:
    """All instances of an endpoint. Their cards are looked at as they come and go: see `RoutedWorkers`."""

    def __init__(self, endpoint: Endpoint, client: Client) -> None:
        self._endpoint = endpoint
        self._client = client
        self._configs: dict[int, Mapping[str, object]] = {}
        self._following: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to follow the cards, and return when those that there are were read.

        Raises what ends the watch, and `CannotConnect` if discovery does not say who there is.
        """
        prefix = self._endpoint.id.model_card_key(0).removesuffix("0")
        are_read = asyncio.Event()
        self._following = asyncio.create_task(
            follow(self._endpoint.runtime, prefix, self._put, self._delete, are_read.set)
        )
        reading = asyncio.ensure_future(are_read.wait())
        try:
            await asyncio.wait((reading, self._following), timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            reading.cancel()
        if self._following.done():
            self._following.result()
        if not are_read.is_set():
            raise CannotConnect(f"discovery has not said within {START_S:g} s who serves {self._endpoint.id}")

    async def close(self) -> None:
        """Stop following. A second call changes nothing."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
            self._following = None

    def instance_ids(self) -> list[int]:
        """Those that are alive, in ascending order."""
        return self._client.instance_ids()

    def runtime_config(self, instance_id: int) -> Mapping[str, object]:
        """What the worker's model card says of it; empty if it has none."""
        return self._configs.get(instance_id, _NOTHING)

    async def _put(self, change: Put) -> None:
        if (found := card_of(change)) is not None:
            _, instance_id, card = found
            self._configs[instance_id] = card.runtime_config

    async def _delete(self, key: str) -> None:
        self._configs.pop(parse_key(key)[1], None)

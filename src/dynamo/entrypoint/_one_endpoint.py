"""A system as it looks to somebody who wants the workers of one endpoint only."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from dynamo._core.address import MODEL_CARDS, REGISTRATIONS, EndpointId
from dynamo._core.discovery import DiscoveryStatus
from dynamo._core.discovery.base import LEASE_TTL_S, Change, Discovery, Lease
from dynamo.runtime import DistributedRuntime


class OneEndpoint:
    """A discovery in which only the models that workers serve at one endpoint can be seen. All else is as it is."""

    def __init__(self, discovery: Discovery, endpoint: EndpointId) -> None:
        self._discovery = discovery
        self._cards = endpoint.model_card_key(0).removesuffix("0")

    @property
    def status(self) -> DiscoveryStatus:
        return self._discovery.status

    async def grant(self, ttl_s: float = LEASE_TTL_S) -> Lease:
        return await self._discovery.grant(ttl_s)

    async def put(self, key: str, value: bytes, lease: Lease | None = None) -> None:
        await self._discovery.put(key, value, lease)

    async def create(self, key: str, value: bytes, lease: Lease | None = None) -> bool:
        return await self._discovery.create(key, value, lease)

    async def get_prefix(self, prefix: str) -> dict[str, bytes]:
        return await self._discovery.get_prefix(self._seen(prefix))

    async def delete(self, key: str) -> None:
        await self._discovery.delete(key)

    def watch(self, prefix: str) -> AsyncGenerator[Change, None]:
        return self._discovery.watch(self._seen(prefix))

    async def close(self) -> None:
        await self._discovery.close()

    def _seen(self, prefix: str) -> str:
        if prefix.startswith(REGISTRATIONS):
            return f"{REGISTRATIONS}./"  # there is nothing: no name begins with a dot
        return self._cards if prefix == MODEL_CARDS else prefix


@asynccontextmanager
async def seeing_only(runtime: DistributedRuntime, endpoint: EndpointId) -> AsyncIterator[DistributedRuntime]:
    """A runtime beside this one, on its planes, that sees the models of one endpoint only."""
    async with DistributedRuntime(
        discovery=OneEndpoint(runtime.discovery, endpoint),
        request_plane=runtime.requests,
        event_plane=await runtime.events.open(),
        rng=runtime.rng,
        system_server=False,
    ) as narrowed:
        yield narrowed

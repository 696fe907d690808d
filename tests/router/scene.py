"""A router of its own before simulated engines, and clients that ask it, on one host without sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.llm.kv_router.cluster import BLOCK_SIZE, ENDPOINT, Cluster

from dynamo._core.context import Context
from dynamo.llm._model_card import ModelCard
from dynamo.router._config import RouterOptions
from dynamo.router._service import serve_router
from dynamo.runtime import DistributedRuntime, Endpoint, ResponseStream

DEADLINE_S = 60.0
PROMPT = list(range(50))

Item = dict[str, object]


class Asker:
    """A process that asks a router."""

    def __init__(self, runtime: DistributedRuntime, component: str = "test.router") -> None:
        self.runtime = runtime
        self._component = component

    async def there(self) -> None:
        """Wait until the router takes requests."""
        client = await self.runtime.endpoint(f"{self._component}.generate").client()
        await client.wait_for_instances(timeout_s=DEADLINE_S)
        await client.close()

    async def send(self, request: object, context: Context | None = None) -> ResponseStream[Item]:
        """Have the router send a request; return the stream."""
        client = await self.runtime.endpoint(f"{self._component}.generate").client()
        return await client.generate(request, context=context, item_type=Item)

    async def generate(self, request: object, context: Context | None = None) -> list[Item]:
        """Have the router send a request; return all that comes back."""
        return [item async for item in await self.send(request, context)]

    async def ask(self, endpoint: str, request: object) -> object:
        """Return the one answer of another endpoint."""
        client = await self.runtime.endpoint(f"{self._component}.{endpoint}").client()
        (answer,) = await (await client.generate(request, annotated=False)).batch()
        return answer

    async def fields(self, endpoint: str, request: object) -> dict[str, Any]:
        """Return the one answer of another endpoint that is a mapping."""
        answer = await self.ask(endpoint, request)
        assert isinstance(answer, dict)
        return answer

    async def loads(self) -> list[dict[str, int]]:
        """What each worker has to do."""
        loads = await self.ask("get_potential_loads", [])
        assert isinstance(loads, list)
        return loads

    async def num_requests(self) -> dict[int, int]:
        """How many requests the router counts with each worker."""
        return {load["worker_id"]: load["active_requests"] for load in await self.loads()}

    async def until_workers(self, num: int) -> None:
        """Wait until the router knows so many workers."""
        async with asyncio.timeout(DEADLINE_S):
            while len(await self.loads()) != num:  # noqa: ASYNC110
                await asyncio.sleep(0.001)

    async def until_requests(self, num: int) -> None:
        """Wait until the router counts so many in all."""
        async with asyncio.timeout(DEADLINE_S):
            while sum((await self.num_requests()).values()) != num:  # noqa: ASYNC110
                await asyncio.sleep(0.001)

    async def until_cached(self, prompt: list[int], num_blocks: int) -> None:
        """Wait until the router knows that somebody has so many blocks of a prompt."""
        async with asyncio.timeout(DEADLINE_S):
            while num_blocks not in await self._cached(prompt):  # noqa: ASYNC110
                await asyncio.sleep(0.001)

    async def _cached(self, prompt: list[int]) -> list[int]:
        found = await self.fields("get_overlap_scores", prompt)
        return [one["overlap_blocks"] for one in found["workers"]]


@asynccontextmanager
async def routing(cluster: Cluster, **options: object) -> AsyncIterator[DistributedRuntime]:
    """A router with these options, until the end of the block: then it ends in order."""
    async with cluster.process() as runtime:
        settings = RouterOptions(**{"endpoint": ENDPOINT, **options})  # type: ignore[arg-type]
        serving = asyncio.create_task(serve_router(runtime, settings))
        try:
            yield runtime
        finally:
            runtime.shutdown()
            async with asyncio.timeout(DEADLINE_S):
                await serving


async def until_waiting(router: DistributedRuntime, num: int) -> None:
    """Wait until so many requests wait in the router."""
    line = f'dynamo_component_router_queue_pending_requests{{model="mock",policy_class="default"}} {num:.1f}'
    expose = router.exposition.prepare()
    async with asyncio.timeout(DEADLINE_S):
        while line not in expose("")[0].decode():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@asynccontextmanager
async def asking(cluster: Cluster, **options: object) -> AsyncIterator[Asker]:
    """A router with these options that takes requests, and a process that asks it."""
    async with routing(cluster, **options), cluster.process() as runtime:
        settings = RouterOptions(**{"endpoint": ENDPOINT, **options})  # type: ignore[arg-type]
        asker = Asker(runtime, f"{settings.own_namespace}.{settings.component}")
        await asker.there()
        yield asker


def request(prompt: list[int], max_tokens: int = 4, **fields: object) -> Item:
    """A request as workers take it."""
    return {"model": "mock", "token_ids": prompt, "stop_conditions": {"max_tokens": max_tokens}, **fields}


async def put_card(endpoint: Endpoint, **fields: object) -> None:
    """Say what an instance of an endpoint serves."""
    card = ModelCard(
        **{
            "display_name": "mock",
            "slug": "mock",
            "source_path": "/nowhere",
            "context_length": 2048,
            "kv_cache_block_size": BLOCK_SIZE,
            **fields,
        }  # type: ignore[arg-type]
    )
    key = endpoint.id.model_card_key(endpoint.lease_id())
    await endpoint.runtime.discovery.put(key, card.to_json(), endpoint.lease)

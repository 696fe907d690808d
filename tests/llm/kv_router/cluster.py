"""Workers with simulated engines and routers before them, each a process of its own on one host without sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.llm.kv.scene import Host

from dynamo.llm import serve_engine
from dynamo.llm._kv_publisher import KvPublisher
from dynamo.llm._kv_router.config import KvRouterConfig
from dynamo.llm._kv_router.router import KvRouter
from dynamo.llm._model_card import ModelCard
from dynamo.mocker import MockerConfig, MockerEngine
from dynamo.runtime import Client, Endpoint, ServedEndpoint

BLOCK_SIZE = 4
ENDPOINT = "test.worker.generate"


class Worker:
    """A worker that serves."""

    def __init__(self, engine: MockerEngine, served: ServedEndpoint) -> None:
        self.engine = engine
        self.served = served

    @property
    def id(self) -> int:
        return self.served.instance_id


class Cluster(Host):
    """A host with workers of one model."""

    @asynccontextmanager
    async def mocker(
        self, *, dp_size: int = 1, speedup_ratio: float = 0.0, taints: list[str] | None = None
    ) -> AsyncIterator[Worker]:
        """A worker that tells of its blocks, until the end of the block."""
        config = MockerConfig(
            block_size=BLOCK_SIZE, num_gpu_blocks=512, max_num_seqs=16, max_num_batched_tokens=256,
            max_context_length=2048, dp_size=dp_size, speedup_ratio=speedup_ratio,
        )  # fmt: skip
        async with self.process() as runtime:
            endpoint = runtime.endpoint(ENDPOINT)
            ranks = range(dp_size)
            sinks = [KvPublisher(endpoint, kv_block_size=BLOCK_SIZE, dp_rank=dp_rank) for dp_rank in ranks]
            engine = MockerEngine(config, kv_event_sinks=sinks)
            try:
                served = await serve_engine(endpoint, engine)
                await _put_card(endpoint, engine, taints or [])
                yield Worker(engine, served)
            finally:
                await engine.close()

    @asynccontextmanager
    async def kv_router(self, config: KvRouterConfig | None = None, *, num_workers: int = 1) -> AsyncIterator[KvRouter]:
        """A router that knows so many workers."""
        async with self.process() as runtime:
            endpoint = runtime.endpoint(ENDPOINT)
            client: Client = await endpoint.client()
            await client.wait_for_instances(num_workers, timeout_s=60)
            async with KvRouter(endpoint, BLOCK_SIZE, config, client=client) as router:
                yield router


async def _put_card(endpoint: Endpoint, engine: MockerEngine, taints: list[str]) -> None:
    card = ModelCard(
        display_name="mock", slug="mock", source_path="/nowhere", context_length=2048,
        kv_cache_block_size=BLOCK_SIZE, runtime_config={**engine.runtime_config, "taints": taints},
    )  # fmt: skip
    key = endpoint.id.model_card_key(endpoint.lease_id())
    await endpoint.runtime.discovery.put(key, card.to_json(), endpoint.lease)


async def turns(num: int = 20) -> None:
    """Let everything go on that waits for nothing but its turn."""
    for _ in range(num):
        await asyncio.sleep(0)

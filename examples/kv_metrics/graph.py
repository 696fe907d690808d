"""Workers that keep what they have seen, and a router with a cost function of its own that sends requests there.

There is no model: a block is "cached" once its tokens were seen. What is told, and what the router makes of it, is
what real engines and routers do.
"""

import asyncio
import random
from argparse import Namespace
from collections.abc import AsyncIterator

from pydantic import BaseModel

from dynamo.llm import (
    AggregatedMetrics,
    KvIndexer,
    KvMetricsAggregator,
    KvMetricsPublisher,
    KvPublisher,
    OverlapScores,
    compute_block_hash_for_seq,
)
from dynamo.sdk import async_on_start, depends, dynamo_context, dynamo_endpoint, service

BLOCK_SIZE = 4
TOTAL_BLOCKS = 1024


class Tokens(BaseModel):
    tokens: list[int]


class Answer(BaseModel):
    cached_blocks: int
    total_blocks: int


@service(dynamo={"namespace": "your_namespace"}, workers=2)
class CachingWorker:
    """Tells which blocks it has, and how many."""

    def __init__(self) -> None:
        self.blocks: set[tuple[int, ...]] = set()
        self.active = 0
        self.metrics_publisher = KvMetricsPublisher()
        self.metrics_publisher.create_endpoint(dynamo_context["component"])
        self.kv_publisher = KvPublisher(dynamo_context["endpoints"][0], kv_block_size=BLOCK_SIZE)
        self.publish_metrics()

    def publish_metrics(self) -> None:
        held = len(self.blocks)
        self.metrics_publisher.publish(self.active, 8, held, TOTAL_BLOCKS, 0, held / TOTAL_BLOCKS, 0.0)

    @dynamo_endpoint()
    async def generate(self, request: Tokens) -> AsyncIterator[Answer]:
        self.active += 1
        hashes = compute_block_hash_for_seq(request.tokens, BLOCK_SIZE)
        prefixes = [tuple(hashes[: count + 1]) for count in range(len(hashes))]
        cached = sum(prefix in self.blocks for prefix in prefixes)
        names = [hash(prefix) for prefix in prefixes]
        if cached < len(hashes):
            parent = names[cached - 1] if cached else None
            self.kv_publisher.stored(parent, names[cached:], hashes[cached:])
        self.blocks.update(prefixes)
        self.active -= 1
        self.publish_metrics()
        yield Answer(cached_blocks=cached, total_blocks=len(hashes))


class Choice(BaseModel):
    worker_id: int
    cached_blocks: int


@service(dynamo={"namespace": "your_namespace"})
class Router:
    """Answers which worker a request should go to."""

    worker = depends(CachingWorker)

    def __init__(self, block_size: int = BLOCK_SIZE) -> None:
        self.args = Namespace(block_size=block_size)

    @async_on_start
    async def async_init(self) -> None:
        runtime = dynamo_context["runtime"]
        kv_listener = runtime.namespace("your_namespace").component("CachingWorker")
        await kv_listener.create_service()
        self.indexer = KvIndexer(kv_listener, self.args.block_size)
        self.metrics_aggregator = KvMetricsAggregator(kv_listener)
        await asyncio.wait_for(self.until_metrics_come(), 30)

    async def until_metrics_come(self) -> None:
        """Before the first worker has told its own, there is nobody to choose."""
        while True:
            metrics = await self.metrics_aggregator.get_metrics()
            if metrics.endpoints:
                return
            await asyncio.sleep(0.05)

    def cost(self, cached_blocks: int, total_blocks: int, cache_usage: float) -> float:
        """What a request costs at a worker: blocks to compute, and a little for a full cache. Yours may differ."""
        return total_blocks - cached_blocks + cache_usage

    def choose(self, scores: OverlapScores[int], metrics: AggregatedMetrics, total_blocks: int) -> Choice:
        costs = {
            worker.worker_id: self.cost(
                scores.scores.get(worker.worker_id, 0), total_blocks, worker.gpu_cache_usage_perc
            )
            for worker in metrics.endpoints
        }
        cheapest = [worker_id for worker_id, cost in costs.items() if cost == min(costs.values())]
        worker_id = random.choice(cheapest)
        return Choice(worker_id=worker_id, cached_blocks=scores.scores.get(worker_id, 0))

    @dynamo_endpoint()
    async def generate(self, request: Tokens) -> AsyncIterator[Choice]:
        scores = await self.indexer.find_matches_for_request(request.tokens)
        metrics = await self.metrics_aggregator.get_metrics()
        yield self.choose(scores, metrics, len(request.tokens) // self.indexer.block_size())

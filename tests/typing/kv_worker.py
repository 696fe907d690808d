"""A worker that publishes its load and a router with a cost of its own, as the guide to writing workers has them."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

from pydantic import BaseModel

from dynamo.llm import AggregatedMetrics, KvIndexer, KvMetricsAggregator, KvMetricsPublisher, OverlapScores
from dynamo.sdk import async_on_start, dynamo_context, dynamo_endpoint, service


class Tokens(BaseModel):
    tokens: list[int]


@service(dynamo={"namespace": "typing"})
class KvWorker:
    def __init__(self) -> None:
        self.component = dynamo_context["component"]
        self.metrics_publisher = KvMetricsPublisher()
        self.metrics_publisher.create_endpoint(self.component)
        self.request_active_slots = 0

    def publish_kv_metrics(self) -> None:
        self.metrics_publisher.publish(
            self.request_active_slots,
            1024,
            random.randint(0, 1024),
            1024,
            random.randint(0, 100),
            random.uniform(0, 1.0),
            random.uniform(0, 1.0),
        )

    @dynamo_endpoint()
    async def generate(self, request: Tokens) -> AsyncIterator[int]:
        self.request_active_slots += 1
        for token in request.tokens:
            self.publish_kv_metrics()
            yield token
        self.request_active_slots -= 1


@service(dynamo={"namespace": "typing"})
class Router:
    indexer: KvIndexer
    metrics_aggregator: KvMetricsAggregator

    @async_on_start
    async def async_init(self) -> None:
        self.runtime = dynamo_context["runtime"]
        kv_listener = self.runtime.namespace("typing").component("KvWorker")
        await kv_listener.create_service()
        self.indexer = KvIndexer(kv_listener, 16)
        self.metrics_aggregator = KvMetricsAggregator(kv_listener)

    def _cost_function(
        self,
        scores: OverlapScores[int],
        metrics: AggregatedMetrics,
        token_length: int,
        custom_metrics: dict[str, float] | None = None,
    ) -> int:
        costs = {one.worker_id: one.gpu_cache_usage_perc + one.num_requests_waiting for one in metrics.endpoints}
        for worker_id, score in scores.scores.items():
            costs[worker_id] = costs.get(worker_id, 0.0) - score * self.indexer.block_size() / token_length
        return min(costs, key=lambda worker_id: costs[worker_id])

    @dynamo_endpoint()
    async def generate(self, request: Tokens) -> AsyncIterator[str]:
        lora_id = 0
        scores = await self.indexer.find_matches_for_request(request.tokens, lora_id)
        metrics = await self.metrics_aggregator.get_metrics()
        yield f"{self._cost_function(scores, metrics, len(request.tokens), {'my_custom_metric': 42})}"

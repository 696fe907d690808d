"""The documented KV worker and the documented router with a cost function of its own, as they are written there."""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
from collections.abc import AsyncIterator

import pytest
from pydantic import BaseModel
from tests.sdk.world import DEADLINE_S, World

from dynamo.llm import (
    AggregatedMetrics,
    KvIndexer,
    KvMetricsAggregator,
    KvMetricsPublisher,
    KvPublisher,
    OverlapScores,
)
from dynamo.runtime import HandlerError
from dynamo.sdk import async_on_start, dynamo_context, dynamo_endpoint, service

logger = logging.getLogger(__name__)


class RequestType(BaseModel):
    text: str


class ResponseType(BaseModel):
    text: str


@service(
    dynamo={
        "namespace": "your_namespace",
    }
)
class YourWorker:
    def __init__(self):  # type: ignore[no-untyped-def]
        # Initialize metrics publisher from Dynamo
        self.component = dynamo_context["component"]
        self.metrics_publisher = KvMetricsPublisher()
        # Register an endpoint for consumers of the KV Metrics
        # (KvMetricsAggregator) to listen/gather on.
        self.metrics_publisher.create_endpoint(self.component)

        # Initialize some metrics for the worker/class to track
        self.request_active_slots = 0
        self.request_total_slots = 1024
        self.kv_active_blocks = 0
        self.kv_total_blocks = 1024
        self.num_requests_waiting = 0
        self.gpu_cache_usage_perc = 0.0
        self.gpu_prefix_cache_hit_rate = 0.0

        # Publish some initial metrics to register
        # this worker as a candidate for KV Routing.
        self.metrics_publisher.publish(
            self.request_active_slots,
            self.request_total_slots,
            self.kv_active_blocks,
            self.kv_total_blocks,
            self.num_requests_waiting,
            self.gpu_cache_usage_perc,
            self.gpu_prefix_cache_hit_rate,
        )

    def publish_kv_metrics(self):  # type: ignore[no-untyped-def]
        # Populate the frequently changing metrics with random data for
        # demonstration. These values should be tracked by the implementation,
        # or queried from the underlying inference framework.
        self.kv_active_blocks = random.randint(0, 1024)
        self.num_requests_waiting = random.randint(0, 100)
        self.gpu_cache_usage_perc = random.uniform(0, 1.0)
        self.gpu_prefix_cache_hit_rate = random.uniform(0, 1.0)

        # Publish the metrics with the current state
        self.metrics_publisher.publish(
            self.request_active_slots,
            self.request_total_slots,
            self.kv_active_blocks,
            self.kv_total_blocks,
            self.num_requests_waiting,
            self.gpu_cache_usage_perc,
            self.gpu_prefix_cache_hit_rate,
        )

    @dynamo_endpoint()
    async def generate(self, request: RequestType):  # type: ignore[no-untyped-def]
        """Generate tokens, update KV Cache metrics, and stream the tokens back"""
        # Increment the number of active requests on receiving one
        self.request_active_slots += 1
        logger.info(f"Worker endpoint received: {request.text}")

        # Simulate each step of token generation
        for token in request.text.split():
            # Update the metrics with the current state
            self.publish_kv_metrics()  # type: ignore[no-untyped-call]

            print("Returning token:", token)
            yield ResponseType(text=token).model_dump_json()

        # Decrement the number of active requests when complete with one
        self.request_active_slots -= 1


class Tokens(BaseModel):
    tokens: list[int]


WorkerId = str


@service(
    dynamo={
        "namespace": "your_namespace",
    },
)
class Router:
    def __init__(self) -> None:
        self.args = argparse.Namespace(block_size=4)

    @async_on_start
    async def async_init(self):  # type: ignore[no-untyped-def]
        self.runtime = dynamo_context["runtime"]

        # Initialize a listener/aggregator for collecting KV metrics
        # from the specified component (workers) publishing them
        kv_listener = self.runtime.namespace("your_namespace").component("YourWorker")
        await kv_listener.create_service()
        self.indexer = KvIndexer(kv_listener, self.args.block_size)
        self.metrics_aggregator = KvMetricsAggregator(kv_listener)

    def _cost_function(  # type: ignore[no-untyped-def]
        self,
        scores: OverlapScores[int] | None,
        metrics: AggregatedMetrics | None,
        token_length: int,
        custom_metrics: dict = {},  # type: ignore[type-arg]  # noqa: B006
    ):
        # This is a dummy implementation for demonstration purposes, see the
        # llm/tensorrt_llm/hello_world examples for more realistic implementations.
        worker_ids = []

        # KV cache block hit scores
        for worker_id, score in scores.scores.items():  # type: ignore[union-attr]
            print(f"{worker_id} # of matching KV Blocks of size {self.indexer.block_size()}: {score}")
            worker_ids.append(worker_id)

        # Aggregated KVMetrics published by workers
        for endpoint_metrics in metrics.endpoints:  # type: ignore[union-attr]
            print(f"Endpoint metrics: {endpoint_metrics}")

        # Replace this random choice with your custom criteria to
        # select the best worker ID.
        best_worker_id = random.choice(worker_ids)

        return best_worker_id  # noqa: RET504

    @dynamo_endpoint()
    async def generate(self, request: Tokens) -> AsyncIterator[WorkerId]:
        try:
            # lora_id is a placeholder for lora support, but not used in this example
            lora_id = 0
            scores = await self.indexer.find_matches_for_request(request.tokens, lora_id)
        except Exception as e:
            scores = {}  # type: ignore[assignment]
            print(f"Error finding matches: {e}")

        # Get published/aggregated KV Metrics
        metrics = await self.metrics_aggregator.get_metrics()

        # (Optional) Add custom metrics to consider in the cost function
        # The types and data used here are fully up to your implementation
        custom_metrics = {"my_custom_metric": 42}

        # Call custom cost function
        worker_id = self._cost_function(scores, metrics, len(request.tokens), custom_metrics)

        # Return worker ID selected from cost function
        yield f"{worker_id}"


async def test_the_documented_router_finds_the_documented_worker(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    await world.run(YourWorker)
    endpoint = dynamo_context["endpoints"][0]
    publisher = KvPublisher(endpoint, kv_block_size=4)
    assert await world.call(YourWorker, "generate", {"text": "one two"}) == ['{"text":"one"}', '{"text":"two"}']
    publisher.stored(None, [1, 2, 3], token_ids=list(range(12)))
    await world.run(Router)
    [worker_id] = await routed(world, list(range(13)))
    assert worker_id == f"{endpoint.lease_id()}"
    out = capsys.readouterr().out
    assert f"{endpoint.lease_id()} # of matching KV Blocks of size 4: 3" in out
    assert f"Endpoint metrics: EndpointKvMetrics(worker_id={endpoint.lease_id()}, request_active_slots=1" in out


async def routed(world: World, tokens: list[int]) -> list[object]:
    """Ask the router, until it knows who has the tokens: events take a moment."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                return await world.call(Router, "generate", {"tokens": tokens})
            except HandlerError:  # nobody to choose from yet
                await asyncio.sleep(0.05)

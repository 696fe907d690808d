"""The load of workers: told by one, gathered by another."""

from __future__ import annotations

import asyncio

import pytest
from tests.llm.kv.scene import DEADLINE_S, Host, endpoint_of

from dynamo._core.errors import InvalidArgument
from dynamo.llm import (
    AggregatedMetrics,
    EndpointKvMetrics,
    ForwardPassMetrics,
    KvMetricsAggregator,
    KvMetricsPublisher,
    KvStats,
    SpecDecodeStats,
    WorkerMetricsPublisher,
    WorkerStats,
)
from dynamo.llm._kv_metrics_aggregator import aggregate
from dynamo.llm._load_stats import LoadReport
from dynamo.runtime import DistributedRuntime
from dynamo.runtime._component import Component


def component_of(runtime: DistributedRuntime) -> Component:
    return runtime.namespace("test").component("worker")


async def told(aggregator: KvMetricsAggregator, count: int) -> AggregatedMetrics:
    """Wait until so many workers have told their load."""
    async with asyncio.timeout(DEADLINE_S):
        while len((metrics := await aggregator.get_metrics()).endpoints) != count:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return metrics


async def test_the_seven_numbers_of_each_worker_are_gathered() -> None:
    host = Host()
    async with host.process() as one, host.process() as other, host.process() as router:
        for active, runtime in ((10, one), (30, other)):
            publisher = KvMetricsPublisher()
            await publisher.create_endpoint(component_of(runtime))
            publisher.publish(0, 0, 0, 0, 0, 0.0, 0.0)
            publisher.publish(1, 1024, active, 100, 3, 0.5, 0.25)
        metrics = await told(KvMetricsAggregator(component_of(router)), 2)
        assert metrics.endpoints == sorted(
            (
                EndpointKvMetrics(runtime.lease.id, 1, 1024, active, 100, 3, 0.5, 0.25)
                for active, runtime in ((10, one), (30, other))
            ),
            key=lambda endpoint: endpoint.worker_id,
        )
        assert (metrics.load_avg, metrics.load_std) == (20.0, 10.0)


async def test_values_may_be_published_before_the_endpoint_is_there_and_nobody_need_wait() -> None:
    host = Host()
    async with host.process() as worker, host.process() as router:
        publisher = KvMetricsPublisher()
        publisher.create_endpoint(component_of(worker))
        publisher.publish(
            request_active_slots=1,
            request_total_slots=2,
            kv_active_blocks=3,
            kv_total_blocks=4,
            num_requests_waiting=5,
            gpu_cache_usage_perc=0.6,
            gpu_prefix_cache_hit_rate=0.7,
        )
        aggregator = KvMetricsAggregator(component_of(router))
        (endpoint,) = (await told(aggregator, 1)).endpoints
        assert endpoint == EndpointKvMetrics(worker.lease.id, 1, 2, 3, 4, 5, 0.6, 0.7)
        publisher.publish(9, 2, 3, 4, 5, 0.6, 0.7)
        async with asyncio.timeout(DEADLINE_S):
            while (await aggregator.get_metrics()).endpoints[0].request_active_slots != 9:  # noqa: ASYNC110
                await asyncio.sleep(0.05)


async def test_a_lease_is_what_the_worker_is_known_by() -> None:
    host = Host()
    async with host.process() as worker, host.process() as router:
        lease = await component_of(worker).create_service_with_custom_lease()
        publisher = KvMetricsPublisher()
        await publisher.create_endpoint(component_of(worker), lease)
        publisher.publish(1, 2, 3, 4, 5, 0.6, 0.7)
        aggregator = KvMetricsAggregator(component_of(router))
        assert (await told(aggregator, 1)).endpoints[0].worker_id == lease.id()
        await lease.close()
        assert await told(aggregator, 0) == AggregatedMetrics()
        await aggregator.close()


async def test_the_later_forms_say_the_same() -> None:
    host = Host()
    async with host.process() as worker, host.process() as router:
        publisher = WorkerMetricsPublisher()
        await publisher.create_endpoint(endpoint_of(worker))
        aggregator = KvMetricsAggregator(component_of(router))
        assert (await aggregator.get_metrics()).endpoints == []
        publisher.publish(
            ForwardPassMetrics(
                WorkerStats(1, 2, 3, data_parallel_rank=0), KvStats(10, 100, 0.5, 0.2), SpecDecodeStats(num_drafts=1)
            )
        )
        publisher.publish(1, kv_used_blocks=7, active_decode_blocks=5)
        (endpoint,) = (await told(aggregator, 1)).endpoints
        assert endpoint == EndpointKvMetrics(worker.lease.id, 1, 2, 17, 100, 3, 0.25, 0.1)
        with pytest.raises(InvalidArgument, match="publish what"):
            publisher.publish(1)


async def test_a_publisher_that_cannot_serve_says_why(caplog: pytest.LogCaptureFixture) -> None:
    async with Host().process() as worker:
        await KvMetricsPublisher().create_endpoint(component_of(worker))
        with pytest.raises(InvalidArgument, match="load_metrics"):
            await KvMetricsPublisher().create_endpoint(component_of(worker))
    assert "cannot be asked for" in caplog.text


async def test_a_worker_that_answers_no_more_is_left_out_when_it_leaves() -> None:
    host = Host()
    async with host.process() as router:
        aggregator = KvMetricsAggregator(component_of(router))
        async with host.process() as worker:
            publisher = KvMetricsPublisher()
            await publisher.create_endpoint(component_of(worker))
            publisher.publish(1, 2, 3, 4, 5, 0.6, 0.7)
            await told(aggregator, 1)
        await told(aggregator, 0)


def test_a_worker_that_has_told_nothing_yet_counts_for_nothing() -> None:
    assert aggregate({1: LoadReport([])}) == AggregatedMetrics()


async def test_a_worker_whose_report_is_none_is_left_out_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    async def nonsense(_: object) -> object:
        return {"ranks": [{"worker_stats": {"request_active_slots": -1}}]}

    host = Host()
    async with host.process() as one, host.process() as other, host.process() as router:
        await component_of(one).endpoint("load_metrics").serve(nonsense)
        publisher = KvMetricsPublisher()
        await publisher.create_endpoint(component_of(other))
        publisher.publish(1, 2, 3, 4, 5, 0.6, 0.7)
        metrics = await told(KvMetricsAggregator(component_of(router)), 1)
        assert [endpoint.worker_id for endpoint in metrics.endpoints] == [other.lease.id]
    assert f"1 reports of load to {component_of(one).name} were no such reports" in caplog.text
    assert "$.ranks[0].worker_stats.request_active_slots" in caplog.text

"""A lease of an endpoint's own: it lives by that, and revoking it takes it away alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from dynamo._core.discovery.memory import MemoryDiscovery
from dynamo.runtime import DistributedRuntime, NoInstances

DEADLINE_S = 60.0


@pytest.fixture
async def discovery() -> MemoryDiscovery:
    return MemoryDiscovery()


@pytest.fixture
async def runtime(discovery: MemoryDiscovery) -> AsyncIterator[DistributedRuntime]:
    async with DistributedRuntime(discovery=discovery, request_plane="inproc:") as runtime:
        yield runtime


async def echo(request: object) -> AsyncIterator[object]:
    yield request


async def test_an_endpoint_is_known_by_the_lease_that_it_is_served_under(runtime: DistributedRuntime) -> None:
    component = runtime.namespace("ns").component("comp")
    lease = await component.create_service_with_custom_lease(ttl=1)
    served = await component.endpoint("generate").serve(echo, lease=lease)
    client = await component.endpoint("generate").client()
    assert client.instance_ids() == [lease.id()] == [served.instance_id]
    assert lease.id() != runtime.lease.id
    assert await lease.is_valid()


async def test_revoking_takes_the_instance_away_and_lets_what_runs_end(runtime: DistributedRuntime) -> None:
    begun, release = asyncio.Event(), asyncio.Event()

    async def slow(request: object) -> AsyncIterator[object]:
        begun.set()
        await release.wait()
        yield request

    component = runtime.namespace("ns").component("comp")
    lease = await component.create_service_with_custom_lease()
    endpoint = component.endpoint("generate")
    serving = asyncio.create_task(endpoint.serve_endpoint(slow, lease=lease))
    other = await component.endpoint("other").serve(echo)
    client = await endpoint.client()
    await client.wait_for_instances(timeout_s=DEADLINE_S)
    stream = await client.generate(1, annotated=False)
    await asyncio.wait_for(begun.wait(), DEADLINE_S)
    lease.revoke()
    lease.revoke()
    async with asyncio.timeout(DEADLINE_S):
        while client.instance_ids():
            await client.wait_for_change()
    with pytest.raises(NoInstances):
        await client.generate(2)
    assert not await lease.is_valid()
    release.set()
    assert [item async for item in stream] == [1]
    await asyncio.wait_for(serving, DEADLINE_S)
    assert other.is_open
    assert not runtime.primary_token().is_cancelled()


async def test_a_lease_that_discovery_has_lost_is_not_valid(
    runtime: DistributedRuntime, discovery: MemoryDiscovery
) -> None:
    component = runtime.namespace("ns").component("comp")
    lease = await component.create_service_with_custom_lease()
    await component.endpoint("generate").serve(echo, lease=lease)
    discovery.expire(lease.lease)
    assert not await lease.is_valid()


async def test_an_endpoint_that_was_closed_says_nothing_against_its_lease(runtime: DistributedRuntime) -> None:
    component = runtime.namespace("ns").component("comp")
    lease = await component.create_service_with_custom_lease()
    served = await component.endpoint("generate").serve(echo, lease=lease)
    await served.close()
    assert await lease.is_valid()
    await lease.close()
    assert not await lease.is_valid()


async def test_a_lease_ends_with_the_runtime(discovery: MemoryDiscovery) -> None:
    async with DistributedRuntime(discovery=discovery, request_plane="inproc:") as runtime:
        lease = await runtime.namespace("ns").component("comp").create_service_with_custom_lease()
        await runtime.endpoint("ns.comp.generate").serve(echo, lease=lease)
    assert await discovery.get_prefix("") == {}
    assert not await lease.is_valid()


async def test_older_code_gives_the_lease_as_the_second_argument(runtime: DistributedRuntime) -> None:
    component = runtime.namespace("ns").component("comp")
    lease = await component.create_service_with_custom_lease()
    endpoint = component.endpoint("generate")
    serving = [asyncio.create_task(endpoint.serve_endpoint(echo, given)) for given in (lease, None)]
    client = await endpoint.client()
    await client.wait_for_instances(count=2, timeout_s=DEADLINE_S)
    assert client.instance_ids() == sorted([lease.id(), runtime.lease.id])
    lease.revoke()
    await asyncio.wait_for(serving[0], DEADLINE_S)
    runtime.shutdown()
    await asyncio.wait_for(serving[1], DEADLINE_S)

"""An endpoint that sleeps: it is served, nobody finds it, and it can wake again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from dynamo._core.errors import NotFound
from dynamo.runtime import Client, DistributedRuntime, Endpoint, InvalidArgument, ServedEndpoint
from dynamo.runtime._health import Verdict

DEADLINE_S = 60.0


async def one(request: object) -> int:
    return 1


@pytest.fixture
async def runtime() -> AsyncIterator[DistributedRuntime]:
    async with DistributedRuntime(discovery="memory:", request_plane="inproc:") as runtime:
        yield runtime


@pytest.fixture
async def served(runtime: DistributedRuntime) -> ServedEndpoint:
    return await runtime.serve("ns.comp.ep", one)


@pytest.fixture
async def client(runtime: DistributedRuntime, served: ServedEndpoint) -> Client:
    client = await runtime.client("ns.comp.ep")
    assert client.instance_ids() == [served.instance_id]
    return client


async def until_gone(client: Client) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while client.instance_ids():
            await client.wait_for_change()


async def test_nobody_finds_it_until_it_wakes(served: ServedEndpoint, client: Client) -> None:
    await served.unregister()
    await until_gone(client)
    assert served.is_open
    assert not served.is_registered
    await served.register()
    assert await client.wait_for_instances(timeout_s=DEADLINE_S) == [served.instance_id]
    assert [item async for item in await client.generate(None, annotated=False)] == [1]


async def test_requests_that_run_go_on(runtime: DistributedRuntime) -> None:
    go = asyncio.Event()

    async def waits(request: object) -> str:
        await go.wait()
        return "done"

    served = await runtime.serve("ns.comp.waits", waits)
    client = await runtime.client("ns.comp.waits")
    stream = await client.generate(None, annotated=False)
    await served.unregister()
    go.set()
    assert [item async for item in stream] == ["done"]


async def test_a_process_with_one_that_sleeps_is_not_ready(runtime: DistributedRuntime, served: ServedEndpoint) -> None:
    await served.unregister()
    assert runtime.health.endpoints() == {"ep": False}
    assert await runtime.health.is_ready() == Verdict(is_good=False, reason="ep sleeps: it is not registered")
    await served.register()
    assert (await runtime.health.is_ready()).is_good


async def test_both_may_be_called_twice(served: ServedEndpoint, client: Client) -> None:
    await served.register()
    await served.unregister()
    await served.unregister()
    await until_gone(client)


async def test_one_that_is_closed_does_not_wake(served: ServedEndpoint) -> None:
    await served.close(drain_s=0)
    with pytest.raises(InvalidArgument, match="ns/comp/ep is closed here; serve it again"):
        await served.register()


async def test_one_that_is_closed_does_not_take_away_the_one_that_is_served_after_it(
    runtime: DistributedRuntime, served: ServedEndpoint
) -> None:
    await served.close(drain_s=0)
    later = await runtime.serve("ns.comp.ep", one)
    await served.unregister()
    with pytest.raises(InvalidArgument, match="is closed here"):
        await served.register()
    assert later.key in await runtime.discovery.get_prefix(later.key)


async def test_a_lease_of_which_all_sleeps_is_valid(runtime: DistributedRuntime) -> None:
    lease = await runtime.grant_custom_lease(10)
    served = await runtime.serve("ns.comp.ep", one, lease=lease)
    await served.unregister()
    assert await lease.is_valid()


async def test_the_names_of_1x_are_those_of_the_endpoint(
    runtime: DistributedRuntime, served: ServedEndpoint, client: Client
) -> None:
    endpoint: Endpoint = runtime.endpoint("ns.comp.ep")
    assert endpoint.connection_id() == served.instance_id
    await endpoint.unregister_endpoint_instance()
    await until_gone(client)
    await endpoint.register_endpoint_instance()
    assert await client.wait_for_instances(timeout_s=DEADLINE_S) == [served.instance_id]


async def test_an_endpoint_that_is_not_served_here_cannot_sleep(runtime: DistributedRuntime) -> None:
    with pytest.raises(NotFound, match="this process does not serve ns/comp/other"):
        await runtime.endpoint("ns.comp.other").unregister_endpoint_instance()

"""One endpoint that is served twice at the same time: one of the two is refused, and the other keeps its key."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator

import pytest
from tests.conformance.discovery import discovery, etcd_url, two

from dynamo._core.discovery import Discovery, Lease
from dynamo._core.discovery.memory import MemoryDiscovery
from dynamo._core.errors import CannotConnect
from dynamo.runtime import DistributedRuntime, Endpoint, InvalidArgument, ServedEndpoint

__all__ = ["discovery", "etcd_url", "two"]

DEADLINE_S = 60.0


async def one(request: object) -> int:
    return 1


@pytest.fixture
async def endpoint(discovery: Discovery) -> AsyncIterator[Endpoint]:
    async with DistributedRuntime(discovery=discovery, request_plane="inproc:") as runtime:
        yield runtime.endpoint("ns.comp.ep")


async def keys(endpoint: Endpoint) -> list[str]:
    return list(await endpoint.runtime.discovery.get_prefix(endpoint.id.instances_prefix))


async def answer(endpoint: Endpoint) -> object:
    client = await endpoint.client()
    async with asyncio.timeout(DEADLINE_S):
        await client.wait_for_instances()
        return [item async for item in await client.generate(None, annotated=False)]


@pytest.mark.parametrize("turns", range(0, 12, 3))
async def test_the_first_is_found_although_the_second_is_cancelled(endpoint: Endpoint, turns: int) -> None:
    first = asyncio.ensure_future(endpoint.serve(one))
    second = asyncio.ensure_future(endpoint.serve(one))
    for _ in range(turns):
        await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait([second])
    served = await first
    assert await keys(endpoint) == [served.key]
    assert await answer(endpoint) == [1]


async def test_the_first_is_found_although_the_second_is_cancelled_once_the_first_is_served(endpoint: Endpoint) -> None:
    first = asyncio.ensure_future(endpoint.serve(one))
    second = asyncio.ensure_future(endpoint.serve(one))
    await asyncio.wait([first])
    second.cancel()
    await asyncio.wait([second])
    assert await keys(endpoint) == [first.result().key]


async def test_of_many_one_serves_and_the_others_are_refused(endpoint: Endpoint) -> None:
    outcomes = await asyncio.gather(*(endpoint.serve(one) for _ in range(10)), return_exceptions=True)
    (served,) = [outcome for outcome in outcomes if isinstance(outcome, ServedEndpoint)]
    refused = [outcome for outcome in outcomes if isinstance(outcome, InvalidArgument)]
    assert len(refused) == 9
    assert await keys(endpoint) == [served.key]
    assert await answer(endpoint) == [1]


async def test_an_endpoint_is_served_again_while_the_one_before_is_closed(endpoint: Endpoint) -> None:
    before = await endpoint.serve(one)
    closing = asyncio.ensure_future(before.close())
    await asyncio.sleep(0)
    after = await endpoint.serve(one)
    await closing
    assert await keys(endpoint) == [after.key]
    await after.close()
    assert await keys(endpoint) == []


class Gated(MemoryDiscovery):
    """A discovery that does what it is told, and says so when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may_say = asyncio.Event()
        self.may_say.set()
        self.did = asyncio.Event()
        #: What becomes of a deletion.
        self.failure: Exception | None = None

    async def put(self, key: str, value: bytes, lease: Lease | None = None) -> None:
        await super().put(key, value, lease)
        self.did.set()
        await self.may_say.wait()

    async def delete(self, key: str) -> None:
        if self.failure is not None:
            raise self.failure
        await super().delete(key)


async def test_the_second_is_cancelled_while_nobody_knows_yet_what_became_of_the_first() -> None:
    discovery = Gated()
    discovery.may_say.clear()
    async with DistributedRuntime(discovery=discovery, request_plane="inproc:") as runtime:
        endpoint = runtime.endpoint("ns.comp.ep")
        first = asyncio.ensure_future(endpoint.serve(one))
        await discovery.did.wait()
        second = asyncio.ensure_future(endpoint.serve(one))
        for _ in range(10):
            await asyncio.sleep(0)
        second.cancel()
        await asyncio.wait([second])
        discovery.may_say.set()
        assert await keys(endpoint) == [(await first).key]


async def test_one_that_is_closed_and_could_not_be_taken_out_makes_room_for_the_next() -> None:
    discovery = Gated()
    async with DistributedRuntime(discovery=discovery, request_plane="inproc:") as runtime:
        endpoint = runtime.endpoint("ns.comp.ep")
        before = await endpoint.serve(one)
        discovery.failure = CannotConnect("discovery is away")
        with pytest.raises(CannotConnect, match="discovery is away"):
            await before.close(drain_s=0)
        discovery.failure = None
        after = await endpoint.serve(one)
        assert await answer(endpoint) == [1]
        await after.close()
        assert await keys(endpoint) == []


async def test_one_that_was_not_taken_out_in_time_makes_room_for_the_next_although_nobody_has_it_any_more() -> None:
    discovery = Gated()
    async with DistributedRuntime(discovery=discovery, request_plane="inproc:") as runtime:
        endpoint = runtime.endpoint("ns.comp.ep")
        before: ServedEndpoint | None = await endpoint.serve(one)
        discovery.failure = TimeoutError()
        assert before is not None
        await before.close(drain_s=0)
        discovery.failure = before = None
        gc.collect()
        assert len(await keys(endpoint)) == 1
        after = await endpoint.serve(one)
        assert await answer(endpoint) == [1]
        await after.close()
        assert await keys(endpoint) == []


async def test_one_that_woke_without_hearing_of_it_may_be_woken_again() -> None:
    discovery = Gated()
    async with DistributedRuntime(discovery=discovery, request_plane="inproc:") as runtime:
        endpoint = runtime.endpoint("ns.comp.ep")
        served = await endpoint.serve(one)
        await served.unregister()
        discovery.may_say.clear()
        discovery.did.clear()
        waking = asyncio.ensure_future(served.register())
        await discovery.did.wait()
        waking.cancel()
        await asyncio.wait([waking])
        discovery.may_say.set()
        await served.register()
        assert served.is_registered
        assert await keys(endpoint) == [served.key]
        await served.close(drain_s=0)
        assert await keys(endpoint) == []

"""How many requests of an endpoint run and wait: never more than may, and who is refused hears when to come again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from dynamo.runtime import Client, DistributedRuntime, InvalidArgument, Overloaded
from dynamo.runtime._measured import Measured, RejectReason

DEADLINE_S = 60.0


class Engine:
    """Answers when it is let go; counts how many run."""

    def __init__(self) -> None:
        self.running = 0
        self.running_max = 0
        self.order: list[object] = []
        self.go = asyncio.Event()
        self.changed = asyncio.Event()

    async def serve(self, request: object) -> AsyncIterator[object]:
        self.running += 1
        self.running_max = max(self.running, self.running_max)
        self.order.append(request)
        self.changed.set()
        try:
            await self.go.wait()
            yield request
        finally:
            self.running -= 1


@pytest.fixture
async def runtime() -> AsyncIterator[DistributedRuntime]:
    async with asyncio.timeout(DEADLINE_S), DistributedRuntime(discovery="memory:", request_plane="inproc:") as runtime:
        yield runtime


async def serve(
    runtime: DistributedRuntime, engine: Engine, *, running: int, queued: int, queue_timeout_s: float = DEADLINE_S
) -> tuple[Client, Measured]:
    endpoint = runtime.endpoint("ns.comp.ep")
    await endpoint.serve(
        engine.serve, max_concurrent_requests=running, max_queued_requests=queued, queue_timeout_s=queue_timeout_s
    )
    return await endpoint.client(), runtime.measure(endpoint.id)


async def ask(client: Client, request: object) -> object:
    return await anext(await client.generate(request, annotated=False))


async def until_queued(measured: Measured, count: int) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while measured.queued < count:  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_no_more_run_than_may_and_those_that_wait_come_in_order(runtime: DistributedRuntime) -> None:
    engine = Engine()
    client, measured = await serve(runtime, engine, running=2, queued=8)
    asking = [asyncio.ensure_future(ask(client, number)) for number in range(10)]
    await until_queued(measured, 8)
    assert engine.running == 2
    engine.go.set()
    assert await asyncio.gather(*asking) == list(range(10))
    assert (engine.running_max, engine.order) == (2, list(range(10)))
    assert (measured.inflight, measured.queued) == (0, 0)


async def test_who_finds_the_queue_full_is_refused_at_once_and_told_when_to_come_again(
    runtime: DistributedRuntime,
) -> None:
    engine = Engine()
    client, measured = await serve(runtime, engine, running=1, queued=1)
    asking = [asyncio.ensure_future(ask(client, number)) for number in range(2)]
    await until_queued(measured, 1)
    with pytest.raises(Overloaded, match=r"runs 1 requests, as many as it may, and 1 requests wait already") as caught:
        await ask(client, "third")
    assert caught.value.retry_after_s is not None
    assert caught.value.retry_after_s > 0
    assert measured.rejected == {RejectReason.QUEUE_FULL: 1, RejectReason.QUEUE_TIMEOUT: 0}
    assert (sum(measured.errors.values()), measured.cancelled) == (0, 0)
    engine.go.set()
    await asyncio.gather(*asking)
    assert "third" not in engine.order


async def test_who_waits_too_long_is_refused(runtime: DistributedRuntime) -> None:
    engine = Engine()
    client, measured = await serve(runtime, engine, running=1, queued=1, queue_timeout_s=0.05)
    first = asyncio.ensure_future(ask(client, "first"))
    await engine.changed.wait()
    with pytest.raises(Overloaded, match=r"no place came free within 0\.05 s"):
        await ask(client, "second")
    assert measured.rejected[RejectReason.QUEUE_TIMEOUT] == 1
    assert (measured.queued, measured.inflight) == (0, 1)
    engine.go.set()
    assert await first == "first"


async def test_who_leaves_the_queue_is_not_served_and_holds_no_place(runtime: DistributedRuntime) -> None:
    engine = Engine()
    client, measured = await serve(runtime, engine, running=1, queued=2)
    first = asyncio.ensure_future(ask(client, "first"))
    await engine.changed.wait()
    leaving = await client.generate("leaves")
    staying = asyncio.ensure_future(ask(client, "stays"))
    await until_queued(measured, 2)
    await leaving.aclose()
    engine.go.set()
    assert [await first, await staying] == ["first", "stays"]
    assert engine.order == ["first", "stays"]
    assert (measured.cancelled, measured.inflight) == (1, 0)


async def test_a_handler_that_fails_or_is_left_gives_its_place_back(runtime: DistributedRuntime) -> None:
    async def fails(request: object) -> AsyncIterator[object]:
        if request == "fail":
            raise ValueError("no")
        while True:
            yield request
            await asyncio.sleep(0)

    endpoint = runtime.endpoint("ns.comp.ep")
    await endpoint.serve(fails, max_concurrent_requests=1, max_queued_requests=4)
    client = await endpoint.client()
    for request in ("fail", "leave", "fail", "leave"):
        async with await client.generate(request, annotated=False) as stream:
            if request == "fail":
                with pytest.raises(Exception, match="ValueError: no"):
                    await anext(stream)
            else:
                assert await anext(stream) == "leave"


async def test_a_thread_whose_caller_has_left_keeps_its_place_until_it_ends(runtime: DistributedRuntime) -> None:
    loop, begun, go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def blocks(request: object) -> object:
        loop.call_soon_threadsafe(begun.set)
        assert go_on.wait(DEADLINE_S)
        return request

    endpoint = runtime.endpoint("ns.comp.ep")
    await endpoint.serve(blocks, max_concurrent_requests=1, max_queued_requests=1)
    client, measured = await endpoint.client(), runtime.measure(endpoint.id)
    left = await client.generate("left")
    await begun.wait()
    await left.aclose()
    asking = asyncio.ensure_future(ask(client, "second"))
    await until_queued(measured, 1)
    go_on.set()
    assert await asking == "second"


async def test_requests_that_wait_are_served_while_the_endpoint_drains(runtime: DistributedRuntime) -> None:
    engine = Engine()
    endpoint = runtime.endpoint("ns.comp.ep")
    served = await endpoint.serve(engine.serve, max_concurrent_requests=1, max_queued_requests=4)
    client, measured = await endpoint.client(), runtime.measure(endpoint.id)
    asking = [asyncio.ensure_future(ask(client, number)) for number in range(3)]
    await until_queued(measured, 2)
    closing = asyncio.ensure_future(served.close(drain_s=DEADLINE_S))
    engine.go.set()
    assert await asyncio.gather(*asking) == [0, 1, 2]
    await closing


@pytest.mark.parametrize(
    ("running", "queued", "queue_timeout_s", "message"),
    [
        (0, 1, 1.0, "max_concurrent_requests=0: give an integer of 1 or more, or None for any number"),
        (1, -1, 1.0, "max_queued_requests=-1: give an integer of 0 or more, or None for 16"),
        (1, 1, 0.0, "queue_timeout_s=0.0: give seconds, more than 0, or None for 10"),
    ],
)
async def test_limits_that_make_no_sense_are_refused(
    runtime: DistributedRuntime, running: int, queued: int, queue_timeout_s: float, message: str
) -> None:
    with pytest.raises(InvalidArgument, match=message):
        await serve(runtime, Engine(), running=running, queued=queued, queue_timeout_s=queue_timeout_s)


@pytest.mark.parametrize(
    ("queued", "queue_timeout_s", "name"), [(8, None, "max_queued_requests"), (None, 1.0, "queue_timeout_s")]
)
async def test_limits_of_a_line_in_which_nobody_would_stand_are_refused(
    runtime: DistributedRuntime, queued: int | None, queue_timeout_s: float | None, name: str
) -> None:
    endpoint = runtime.endpoint("ns.comp.ep")
    for serve_it in (endpoint.serve, endpoint.serve_endpoint):
        with pytest.raises(InvalidArgument, match=f"{name} has no effect without max_concurrent_requests"):
            await serve_it(Engine().serve, max_queued_requests=queued, queue_timeout_s=queue_timeout_s)
    assert await runtime.discovery.get_prefix(endpoint.id.instances_prefix) == {}

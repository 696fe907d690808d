"""A runtime belongs to one event loop: what other threads, other loops and signal handlers may do with it."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable

import pytest

from dynamo.runtime import DistributedRuntime, DynamoError

DEADLINE_S = 60.0


async def one(request: object) -> int:
    return 1


@pytest.fixture
async def runtime() -> AsyncIterator[DistributedRuntime]:
    async with DistributedRuntime(discovery="memory:", request_plane="inproc:") as runtime:
        yield runtime


async def heard_while_the_loop_sleeps(runtime: DistributedRuntime, shut_down: Callable[[], None]) -> bool:
    """Whether a shutdown from outside is heard by a loop that nothing else wakes."""
    loop, heard = asyncio.get_running_loop(), threading.Event()

    def outside() -> bool:
        time.sleep(0.05)  # so that it sleeps by then; if it does not yet, the test merely shows less
        shut_down()
        return heard.wait(DEADLINE_S)

    asked = loop.run_in_executor(None, outside)  # whose end wakes the loop in any case
    await runtime.wait_for_shutdown()
    heard.set()
    return await asked


async def test_another_thread_may_shut_a_runtime_down(runtime: DistributedRuntime) -> None:
    assert await heard_while_the_loop_sleeps(runtime, runtime.shutdown)


async def test_a_plain_signal_handler_may_shut_a_runtime_down(runtime: DistributedRuntime) -> None:
    before = signal.signal(signal.SIGUSR1, lambda *_: runtime.shutdown())
    try:
        assert await heard_while_the_loop_sleeps(runtime, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    finally:
        signal.signal(signal.SIGUSR1, before)


async def test_shutting_down_is_known_at_once_and_harmless_before_it_joined_and_after_it_left() -> None:
    runtime = DistributedRuntime(discovery="memory:", request_plane="inproc:")
    runtime.shutdown()
    async with runtime:
        assert runtime.primary_token().is_cancelled()
        await runtime.wait_for_shutdown()
    runtime.shutdown()


def test_a_runtime_whose_loop_is_closed_may_be_shut_down() -> None:
    async def join() -> DistributedRuntime:
        runtime = DistributedRuntime(discovery="memory:", request_plane="inproc:")
        await runtime.__aenter__()
        return runtime

    runtime = asyncio.run(join())
    runtime.shutdown()
    assert runtime.primary_token().is_cancelled()


@pytest.mark.parametrize("call", ["generate", "round_robin", "direct", "chosen"])
async def test_a_client_that_is_called_from_another_loop_says_so(runtime: DistributedRuntime, call: str) -> None:
    served = await runtime.serve("ns.comp.ep", one)
    client = await runtime.client("ns.comp.ep")

    async def elsewhere() -> None:
        if call == "direct":
            await client.direct(None, served.instance_id)
        elif call == "chosen":
            await client.chosen(lambda _: None, lambda ids: ids[0], item_type=int)
        else:
            await getattr(client, call)(None)

    with pytest.raises(DynamoError, match="this client belongs to another event loop"):
        await asyncio.to_thread(asyncio.run, elsewhere())


async def test_another_thread_may_call_through_the_loop_of_the_client(runtime: DistributedRuntime) -> None:
    await runtime.serve("ns.comp.ep", one)
    client = await runtime.client("ns.comp.ep")
    loop = asyncio.get_running_loop()

    async def ask() -> object:
        return [item async for item in await client.generate(None, annotated=False)]

    asked = await asyncio.to_thread(lambda: asyncio.run_coroutine_threadsafe(ask(), loop).result(DEADLINE_S))
    assert asked == [1]


@pytest.mark.parametrize("has_ended", [True, False])
async def test_a_stream_that_another_thread_drops_is_left_on_its_own_loop(
    runtime: DistributedRuntime, has_ended: bool
) -> None:
    closed = asyncio.Event()

    async def many(request: object) -> AsyncIterator[int]:
        try:
            yield 1
            while not has_ended:
                await asyncio.sleep(0.01)
                yield 2
        finally:
            closed.set()

    await runtime.serve("ns.comp.many", many)
    client = await runtime.client("ns.comp.many")
    streams = [await client.generate(None)]
    await anext(streams[0])
    if has_ended:
        await closed.wait()
        await asyncio.sleep(0)
    left_in: list[int] = []
    call = streams[0]._call
    leave = call.leave

    class Watched(type(call)):  # type: ignore[misc]
        __slots__ = ()

        def leave(self) -> None:
            left_in.append(threading.get_ident())
            leave()

    call.__class__ = Watched
    await asyncio.to_thread(streams.clear)
    async with asyncio.timeout(DEADLINE_S):
        await closed.wait()
        while not left_in:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0)
    assert left_in == [threading.get_ident()]


def test_one_program_may_run_two_loops_one_after_the_other() -> None:
    async def main() -> list[object]:
        async with DistributedRuntime(discovery="memory:", request_plane="tcp:") as runtime:
            await runtime.serve("ns.comp.ep", one)
            client = await runtime.client("ns.comp.ep")
            return [item async for item in await client.generate(None, annotated=False)]

    assert asyncio.run(main()) == asyncio.run(main()) == [1]

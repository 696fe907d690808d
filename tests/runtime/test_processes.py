"""Real processes that find each other, stream, are stopped and are killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from dynamo.runtime import Client, Disconnected, DistributedRuntime, EngineShutdown
from dynamo.runtime._measured import RetryReason

DEADLINE_S = 60.0
WORKER = Path(__file__).with_name("counting_worker.py")

StartWorker = Callable[[], Awaitable[Process]]


@pytest.fixture
async def caller(tmp_path: Path) -> AsyncIterator[DistributedRuntime]:
    async with DistributedRuntime(discovery=f"file://{tmp_path}", request_plane="tcp:") as runtime:
        yield runtime


@pytest.fixture
async def start_worker(tmp_path: Path) -> AsyncIterator[StartWorker]:
    async with AsyncExitStack() as stack:

        async def start() -> Process:
            environment = {**os.environ, "DYN_DISCOVERY": f"file://{tmp_path}"}
            process = await asyncio.create_subprocess_exec(
                sys.executable, str(WORKER), env=environment, stdin=DEVNULL, stdout=PIPE
            )
            stack.push_async_callback(end, process)
            return process

        yield start


async def end(process: Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.communicate()


async def counter(caller: DistributedRuntime, workers: int) -> Client:
    client = await caller.endpoint("test.counter.count").client()
    await client.wait_for_instances(workers, timeout_s=DEADLINE_S)
    return client


async def instances_drop_to(client: Client, count: int) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while len(client.instance_ids()) > count:
            await client.wait_for_change()


async def test_a_worker_killed_mid_stream_is_an_error_and_the_next_request_succeeds(
    caller: DistributedRuntime, start_worker: StartWorker
) -> None:
    first, second = await start_worker(), await start_worker()
    client = await counter(caller, 2)
    streams = [await client.round_robin({}, annotated=False) for _ in range(2)]
    assert [await anext(stream) for stream in streams] == [0, 0]
    first.kill()
    outcomes = await asyncio.gather(*(read_until_error_or(stream, 50) for stream in streams))
    assert sorted(outcomes) == ["counted to 50", "disconnected"]
    # Right away, though discovery may not have noticed yet: nobody is sent to the dead worker.
    for _ in range(4):
        assert [n async for n in await client.round_robin({"to": 3}, annotated=False)] == [0, 1, 2]
    await instances_drop_to(client, 1)
    second.kill()
    await instances_drop_to(client, 0)


async def read_until_error_or(stream: AsyncIterator[object], enough: int) -> str:
    try:
        async with asyncio.timeout(DEADLINE_S):
            async for number in stream:
                if number == enough:
                    return f"counted to {enough}"
    except Disconnected:
        return "disconnected"
    return "ended"


async def test_a_stopped_worker_finishes_its_streams_and_exits_with_zero(
    caller: DistributedRuntime, start_worker: StartWorker
) -> None:
    process = await start_worker()
    client = await counter(caller, 1)
    stream = await client.generate({"to": 50}, annotated=False)
    assert await anext(stream) == 0
    process.send_signal(signal.SIGTERM)
    await instances_drop_to(client, 0)
    assert [n async for n in stream] == list(range(1, 50))
    output, _ = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    assert output == b"starting\ndrained\n"
    assert process.returncode == 0


async def test_a_second_signal_ends_a_worker_that_drains(caller: DistributedRuntime, start_worker: StartWorker) -> None:
    process = await start_worker()
    client = await counter(caller, 1)
    stream = await client.generate({}, annotated=False)
    assert await anext(stream) == 0
    process.send_signal(signal.SIGINT)
    await instances_drop_to(client, 0)
    process.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(process.wait(), DEADLINE_S) != 0
    assert await read_until_error_or(stream, 1 << 60) == "disconnected"


async def test_a_frozen_worker_counts_as_lost_and_is_passed_over(
    caller: DistributedRuntime, start_worker: StartWorker
) -> None:
    frozen = await start_worker()
    client = await counter(caller, 1)
    stream = await client.generate({}, annotated=False)
    assert await anext(stream) == 0
    await start_worker()
    await client.wait_for_instances(2, timeout_s=DEADLINE_S)
    frozen.send_signal(signal.SIGSTOP)
    with pytest.raises(Disconnected, match="silent"):
        async with asyncio.timeout(DEADLINE_S):
            async for _ in stream:
                pass
    assert len(client.instance_ids()) == 2  # discovery cannot tell that it does not run
    for _ in range(4):
        answer = await client.round_robin({"to": 1}, annotated=False)
        assert answer.instance_id != stream.instance_id
        assert [n async for n in answer] == [0]


async def test_a_request_that_probes_a_frozen_worker_is_answered_by_another_one(
    caller: DistributedRuntime, start_worker: StartWorker
) -> None:
    frozen = await start_worker()
    client = await counter(caller, 1)
    stream = await client.generate({}, annotated=False)
    assert await anext(stream) == 0
    await start_worker()
    await client.wait_for_instances(2, timeout_s=DEADLINE_S)
    frozen.send_signal(signal.SIGSTOP)
    with pytest.raises(Disconnected):
        async with asyncio.timeout(DEADLINE_S):
            async for _ in stream:
                pass
    called = caller.measure_calls(client.endpoint)
    async with asyncio.timeout(2 * DEADLINE_S):
        while called.retries[RetryReason.CANNOT_CONNECT] == 0:
            answer = await client.round_robin({"to": 1}, annotated=False)
            assert [n async for n in answer] == [0]
            await asyncio.sleep(0.01)
    frozen.send_signal(signal.SIGCONT)
    async with asyncio.timeout(2 * DEADLINE_S):
        while client.is_passed_over(stream.instance_id):
            answer = await client.round_robin({"to": 1}, annotated=False)
            assert [n async for n in answer] == [0]
            await asyncio.sleep(0.01)


StartProgram = Callable[[str], Awaitable[Process]]


@pytest.fixture
async def start_program(tmp_path: Path) -> AsyncIterator[StartProgram]:
    async with AsyncExitStack() as stack:

        async def start(program: str) -> Process:
            """Run a program until it says that it is up."""
            environment = {**os.environ, "DYN_DISCOVERY": f"file://{tmp_path}"}
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", program, env=environment, stdout=PIPE, stderr=PIPE
            )
            stack.push_async_callback(end, process)
            assert process.stdout is not None
            assert await asyncio.wait_for(process.stdout.readline(), DEADLINE_S) == b"up\n"
            return process

        yield start


async def test_ctrl_c_ends_a_process_that_serves_nothing_without_a_traceback(start_program: StartProgram) -> None:
    process = await start_program("""
import asyncio
from dynamo.runtime import dynamo_worker

@dynamo_worker()
async def main(runtime):
    print("up", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
""")
    process.send_signal(signal.SIGINT)
    output, errors = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    assert (process.returncode, output, errors) == (130, b"", b"")


async def test_a_second_ctrl_c_is_heard_while_the_runtime_leaves(
    caller: DistributedRuntime, start_program: StartProgram
) -> None:
    process = await start_program("""
import asyncio
from dynamo.runtime import dynamo_worker

async def endless(request):
    yield 0
    await asyncio.Event().wait()

@dynamo_worker()
async def main(runtime):
    await runtime.endpoint("test.counter.count").serve(endless)
    print("up", flush=True)
    await runtime.wait_for_shutdown()

asyncio.run(main())
""")
    client = await counter(caller, 1)
    stream = await client.generate({}, annotated=False)
    assert await anext(stream) == 0
    process.send_signal(signal.SIGINT)
    await instances_drop_to(client, 0)
    process.send_signal(signal.SIGINT)
    _, errors = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    assert process.returncode == 130
    assert b"Traceback" not in errors


async def test_a_handler_that_blocks_its_thread_does_not_keep_the_process_alive(
    caller: DistributedRuntime, start_program: StartProgram
) -> None:
    process = await start_program("""
import asyncio, time
from dynamo.runtime import dynamo_worker

def blocks(request):
    yield 0
    time.sleep(600)

@dynamo_worker()
async def main(runtime):
    serving = asyncio.ensure_future(runtime.endpoint("test.counter.count").serve_endpoint(blocks, False))
    print("up", flush=True)
    await serving

asyncio.run(main())
""")
    client = await counter(caller, 1)
    stream = await client.generate({}, annotated=False)
    assert await anext(stream) == 0
    process.send_signal(signal.SIGTERM)
    with pytest.raises(EngineShutdown):
        async with asyncio.timeout(DEADLINE_S):
            await anext(stream)
    _, errors = await asyncio.wait_for(process.communicate(), DEADLINE_S)
    assert process.returncode == 0
    assert b"Traceback" not in errors

"""A program that serves with `HttpService` and nothing else, and is stopped."""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import httpx
import pytest
from tests.cli.serving import environment_of

DEADLINE_S = 30.0
BODY: dict[str, object] = {"model": "patient", "messages": [{"role": "user", "content": "hi"}]}

#: The answer ends after the signal has been heard.
PROGRAM = """
import asyncio
from dynamo.llm import HttpAsyncEngine, HttpService
from dynamo.runtime import DistributedRuntime, dynamo_worker

@dynamo_worker()
async def main(runtime: DistributedRuntime) -> None:
    async def patient(request):
        yield {"choices": [{"index": 0, "delta": {"content": "so far"}, "finish_reason": None}]}
        await runtime.wait_for_shutdown()
        await asyncio.sleep(0.1)
        yield {"choices": [{"index": 0, "delta": {"content": ", and on"}, "finish_reason": "stop"}]}

    service = HttpService(port=0)
    service.add_chat_completions_model("patient", HttpAsyncEngine(patient))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(service.run(runtime))
        print(await service.wait_ready(), flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_a_program_that_only_serves_http_after_its_requests(
    tmp_path: Path, number: signal.Signals
) -> None:
    command = [sys.executable, "-c", PROGRAM]
    process = await asyncio.create_subprocess_exec(
        *command, env=environment_of(tmp_path / "discovery"), stdout=PIPE, stderr=PIPE
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            assert process.stdout is not None
            url = (await process.stdout.readline()).decode().strip()
            async with (
                httpx.AsyncClient(base_url=url, timeout=DEADLINE_S) as client,
                client.stream("POST", "/v1/chat/completions", json=BODY | {"stream": True}) as response,
            ):
                lines = response.aiter_lines()
                await anext(lines)
                process.send_signal(number)
                rest = [line async for line in lines if line]
            assert rest[-1] == "data: [DONE]"
            _, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    assert process.returncode == 0
    assert b"Traceback" not in errors

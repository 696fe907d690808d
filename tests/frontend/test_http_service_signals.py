"""A program that serves with `HttpService` and nothing else, and is stopped."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from tests.cli.serving import environment_of
from tests.signalled import signalled_amid_answer

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
    ended = await signalled_amid_answer(
        ["-c", PROGRAM],
        environment_of(tmp_path / "discovery"),
        number,
        ready=r"(\S+)",
        path="/v1/chat/completions",
        body={"model": "patient", "messages": [{"role": "user", "content": "hi"}]},
    )
    assert ended.last_line == "data: [DONE]"
    assert ended.status == 0
    assert "Traceback" not in ended.errors

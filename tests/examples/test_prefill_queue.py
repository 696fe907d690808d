"""The prefill_queue example, with the commands of its README joined into one system."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
from tests.cli.serving import DEADLINE_S, Serving, environment_of, readme_commands
from tests.nats_server import nats_server

EXAMPLE = Path(__file__).parents[2] / "examples" / "prefill_queue"
README = (EXAMPLE / "README.md").read_text()
[DECODE, *PREFILL, PATIENT_DECODE, SLOW_PREFILL, _] = readme_commands(EXAMPLE, "dynamo serve")


class System:
    """What the README starts."""

    def __init__(self, environment: dict[str, str], stack: AsyncExitStack) -> None:
        self._environment = environment
        self._stack = stack

    async def start(self, *arguments: str) -> Serving:
        serving = await Serving.start(*arguments, cwd=EXAMPLE, environment=self._environment)
        return await self._stack.enter_async_context(serving)

    async def start_decode(self, *options: str, command: list[str] = DECODE) -> httpx.AsyncClient:
        """Start the decode worker; return a client of it."""
        self.decode = await self.start(*command, *options, "--port", "0")
        client = httpx.AsyncClient(base_url=await self.decode.ready(), timeout=DEADLINE_S)
        return await self._stack.enter_async_context(client)

    async def start_prefill(self, *options: str, command: list[str] = PREFILL[0]) -> Serving:
        serving = await self.start(*command, *options)
        await serving.ready()
        return serving


@pytest.fixture
async def system(tmp_path: Path) -> AsyncIterator[System]:
    async with AsyncExitStack() as stack:
        yield System(environment_of(tmp_path), stack)


async def ask(client: httpx.AsyncClient, request_id: str, prompt: str = "Tell me a very long joke") -> str:
    response = await client.post("/generate", params={"prompt": prompt, "request_id": request_id})
    assert response.status_code == 200, response.text
    return response.text


async def test_a_request_is_prefilled_by_who_takes_it_from_the_queue(system: System) -> None:
    client = await system.start_decode()
    prefill = await system.start_prefill()
    [[url]] = readme_commands(EXAMPLE, "curl -N -X POST")
    response = await client.post(url.removeprefix("localhost:8000"))
    assert response.text.strip() == "Tell me a very long joke"
    assert response.text.strip() in README
    for line, serving in (("prefilling request 1, 6 blocks", prefill), ("request 1: 6 blocks were", system.decode)):
        assert line in README
        await serving.line(line)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
async def test_the_job_of_a_worker_that_is_ended_goes_to_another(system: System, number: signal.Signals) -> None:
    client = await system.start_decode(command=PATIENT_DECODE)
    slow = await system.start_prefill("--no-restart", command=SLOW_PREFILL)
    answer = asyncio.create_task(ask(client, "killed"))
    await slow.line("prefilling request killed")
    if number is signal.SIGINT:
        slow.interrupt()
    else:
        [pid] = slow.worker_pids()
        os.kill(pid, number)
    quick = await system.start_prefill()
    await quick.line("prefilling request killed, 6 blocks")
    await answer
    await system.decode.line("request killed: 6 blocks were prefilled elsewhere")


async def test_without_a_prefill_worker_the_decode_worker_does_it_itself(system: System) -> None:
    client = await system.start_decode("--DecodeWorker.prefill_timeout_s=0.1")
    assert await ask(client, "alone", "on my own") == "on my own "
    line = await system.decode.line("request alone was not prefilled elsewhere: (.*?)( \\[|$)")
    assert line[1] == "nobody had done it within 0.1 s"
    assert "was not prefilled elsewhere: nobody had done it within 5 s" in README
    await system.decode.line("request alone is prefilled here")


async def test_the_queue_may_be_on_nats(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(nats_server(tmp_path / "nats"))
        environment = environment_of(tmp_path / "discovery") | {"NATS_SERVER": server.url}
        system = System(environment, stack)
        client = await system.start_decode()
        prefill = await system.start_prefill()
        await ask(client, "nats")
        await prefill.line("prefilling request nats, 6 blocks")
        await system.decode.line("request nats: 6 blocks were prefilled elsewhere")

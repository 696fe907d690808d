"""The disagg_skeleton example, with the commands of its README joined into one system."""

from __future__ import annotations

import re
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from tests.cli.serving import DEADLINE_S, Serving, environment_of, readme_commands

from dynamo.runtime import DistributedRuntime

EXAMPLE = Path(__file__).parents[2] / "examples" / "disagg_skeleton"
HOST = socket.gethostname()


class Skeleton(NamedTuple):
    """Everything that the README starts."""

    client: httpx.AsyncClient
    runtime: DistributedRuntime
    graph: Serving
    workers: list[Serving]
    prefill_worker: Serving

    async def ask(self, prompt: str, request_id: str) -> str:
        response = await self.client.post("/generate", params={"prompt": prompt, "request_id": request_id})
        assert response.status_code == 200, response.text
        return response.text


@pytest.fixture
async def skeleton(tmp_path: Path) -> AsyncIterator[Skeleton]:
    environment = environment_of(tmp_path)
    [graph, *workers, prefill_worker] = readme_commands(EXAMPLE, "dynamo serve")
    async with AsyncExitStack() as stack:

        async def start(*arguments: str) -> Serving:
            serving = await Serving.start(*arguments, cwd=EXAMPLE, environment=environment)
            return await stack.enter_async_context(serving)

        # Those that are called first: so each finds the others at once, and no test has to wait for that.
        prefill = await start(*prefill_worker)
        await prefill.ready()
        decode = [await start(*worker) for worker in workers]
        for serving in decode:
            await serving.ready()
        frontend = await start(*graph, "--port", "0")
        url = await frontend.ready()
        runtime = DistributedRuntime(discovery=environment["DYN_DISCOVERY"], request_plane="tcp:")
        await stack.enter_async_context(runtime)
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=DEADLINE_S))
        yield Skeleton(client, runtime, frontend, decode, prefill)


async def test_the_answer_of_the_readme_is_generated_by_a_worker_of_another_command(skeleton: Skeleton) -> None:
    [[url]] = [command[-1:] for command in readme_commands(EXAMPLE, "curl -X POST")]
    response = await skeleton.client.post(url.removeprefix("localhost:8000"))
    assert response.text == f"Tell me a joke_GeneratedBy_{HOST}"


async def test_a_prompt_goes_back_to_the_worker_that_knows_it_and_is_prefilled_only_once(skeleton: Skeleton) -> None:
    for request_id in ("first", "second"):
        await skeleton.ask("Tell me a joke", request_id)
    first = await skeleton.graph.line(r"request first goes to worker (\d+), hit rate 0\.00")
    second = await skeleton.graph.line(r"request second goes to worker (\d+), hit rate 1\.00")
    assert first[1] == second[1]
    await skeleton.prefill_worker.line("prefilling request first, 14 characters")
    logs = "\n".join(worker.text for worker in skeleton.workers)
    assert f"request first was prefilled by {HOST}" in logs
    assert "request second is prefilled here" in logs


async def test_prompts_that_nobody_knows_are_shared_by_the_workers(skeleton: Skeleton) -> None:
    client = await skeleton.runtime.endpoint("dynamo-demo.DummyWorker.worker_generate").client()
    workers = await client.wait_for_instances(2, timeout_s=DEADLINE_S)
    router = await skeleton.runtime.endpoint("dynamo-demo.Router.check_hit_rate").client()
    chosen = []
    for prompt in ("one", "another"):
        [answer] = await (await router.generate(prompt, annotated=False)).batch()
        assert re.fullmatch(r"\d+_0\.00", str(answer))
        chosen.append(int(str(answer).split("_")[0]))
    assert sorted(chosen) == workers


async def test_a_request_is_refused_as_long_as_no_worker_has_joined(tmp_path: Path) -> None:
    [graph, *_] = readme_commands(EXAMPLE, "dynamo serve")
    options = ["--port", "0", "--Router.worker_timeout_s=0.01"]
    environment = environment_of(tmp_path)
    async with await Serving.start(*graph, *options, cwd=EXAMPLE, environment=environment) as serving:
        async with httpx.AsyncClient(base_url=await serving.ready(), timeout=DEADLINE_S) as client:
            response = await client.post("/generate", params={"prompt": "hello", "request_id": "1"})
        assert (response.status_code, response.json()["error"]["code"]) == (503, "no_instances")

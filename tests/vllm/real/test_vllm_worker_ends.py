"""How requests, workers and engines of vLLM end, as they should and otherwise."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import pytest
from tests.system.cluster import metric
from tests.system.programs import until
from tests.vllm.real.cases import MODEL_NAME, ask, prompt
from tests.vllm.real.scene import Json, Scene, VllmWorker, World
from tests.vllm.real.settings import CONTEXT_LENGTH, DEADLINE_S, TEST_TIMEOUT_S

from dynamo._core.context import Context
from dynamo._core.errors import EngineShutdown

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(TEST_TIMEOUT_S)]

LONG = CONTEXT_LENGTH - 30


async def test_a_cancelled_request_is_in_the_engine_no_more(scene: Scene) -> None:
    worker, context = scene.workers[0], Context()
    before = await worker.metric(scene.http, "vllm:generation_tokens_total")
    async with scene.stream(ask(prompt(600, 20), LONG), context) as stream:
        await anext(stream)
        context.stop_generating()
        rest = [output async for output in stream]
    assert rest[-1].finish_reason == "cancelled"
    await idle(scene, worker)
    assert await worker.metric(scene.http, "vllm:generation_tokens_total") - before < LONG


async def test_the_sockets_of_an_engine_are_where_they_go_with_their_worker(world: World, scene: Scene) -> None:
    folders = [path for path in world.worker_files.iterdir() if path.name.startswith("dynamo-vllm-")]
    assert any(path.is_socket() for folder in folders for path in folder.iterdir())
    assert not any(path.is_socket() for path in world.worker_files.iterdir())


async def test_a_client_that_hangs_up_frees_the_engine(scene: Scene) -> None:
    body = completion(prompt(601, 20), LONG)
    async with scene.http.stream("POST", "/v1/completions", json=body) as answer:
        assert answer.status_code == 200, await answer.aread()
        await anext(answer.aiter_lines())
    for worker in scene.workers:
        await idle(scene, worker)


async def test_an_answer_goes_on_elsewhere_when_its_worker_is_killed_and_its_engine_ends_with_it(
    scene: Scene,
) -> None:
    body = completion(prompt(700, 40), 1200)
    undisturbed = (
        await scene.http.post("/v1/completions", json={**body, "stream": False, "stream_options": None})
    ).json()
    before = await migrations(scene)
    chunks: list[Json] = []
    killed: VllmWorker | None = None
    engines = {worker.instance_id: worker.engine_pids() for worker in scene.workers}
    async with (
        in_short_turns([pid for pids in engines.values() for pid in pids]) as turns,
        scene.http.stream("POST", "/v1/completions", json=body) as answer,
    ):
        assert answer.status_code == 200, await answer.aread()
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                chunks.append(msgspec.json.decode(line.removeprefix("data: "), type=Json))
            if killed is None and len(chunks) == 5:
                killed = await chosen_last(scene)
                killed.program.process.kill()
                turns.cancel()
    assert killed is not None
    assert await killed.program.exit_status() == -signal.SIGKILL
    assert await migrations(scene) == before + 1
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["length"]
    assert chunks[-1]["usage"]["completion_tokens"] == 1200
    assert "".join(choice["text"] for choice in choices) == undisturbed["choices"][0]["text"]
    await until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in engines[killed.instance_id]))


async def test_a_worker_whose_engine_dies_tells_its_requests_and_ends(scene_of_one: Scene) -> None:
    worker = scene_of_one.workers[0]
    async with scene_of_one.stream(ask(prompt(800, 20), LONG), Context()) as stream:
        await anext(stream)
        for pid in worker.engine_pids():
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(EngineShutdown, match="gone"):
            [output async for output in stream]
    assert await worker.program.exit_status() == 1
    assert "error: vLLM's processes are gone; its log says why" in worker.program.text


@asynccontextmanager
async def in_short_turns(pids: list[int]) -> AsyncIterator[asyncio.Task[None]]:
    """Slow engines down until the task is cancelled: at its own pace one may be done before anybody reads a token."""

    async def take_turns() -> None:
        try:
            while True:
                send(signal.SIGSTOP, pids)
                await asyncio.sleep(0.1)
                send(signal.SIGCONT, pids)
                await asyncio.sleep(0.01)
        finally:
            send(signal.SIGCONT, pids)

    turns = asyncio.create_task(take_turns())
    try:
        yield turns
    finally:
        turns.cancel()
        with suppress(asyncio.CancelledError):
            await turns


def send(number: signal.Signals, pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def completion(token_ids: list[int], max_tokens: int) -> Json:
    """A stream of tokens that are varied, and the same wherever it goes on."""
    return {
        "model": MODEL_NAME,
        "prompt": token_ids,
        "max_tokens": max_tokens,
        "ignore_eos": True,
        "temperature": 0,
        "repetition_penalty": 1.5,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def migrations(scene: Scene) -> float:
    return await metric(scene.http, "", "dynamo_frontend_model_migration_total")


async def idle(scene: Scene, worker: VllmWorker) -> None:
    """Wait until nothing runs in an engine."""
    async with asyncio.timeout(DEADLINE_S):
        while await worker.metric(scene.http, "vllm:num_requests_running"):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def chosen_last(scene: Scene) -> VllmWorker:
    """The worker that got the last request. It may be done before its gauges say that it is busy."""
    [last] = (await scene.http.get("/v1/explain", params={"limit": 1})).raise_for_status().json()["decisions"]
    return next(worker for worker in scene.workers if worker.instance_id == last["decision"]["worker_id"])

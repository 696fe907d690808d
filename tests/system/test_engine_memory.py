"""An engine that gets no more memory dies, and nobody but its own worker notices."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.cli.serving import Serving, all_gone, children_of
from tests.system.exact import assert_exact
from tests.system.programs import environment_of
from tests.system.streams import MODEL, ask, client_of

NUM_STREAMS = 4
NUM_TOKENS = 100


@pytest.fixture
async def serving(tmp_path: Path, tiny_model: Path) -> AsyncIterator[Serving]:
    """`dynamo serve` with a frontend and two workers whose engines are processes of their own."""
    options = [f"--Worker.model_path={tiny_model}", f"--Worker.model_name={MODEL}", "--Frontend.http_port=0"]
    environment = environment_of(f"file://{tmp_path / 'discovery'}")
    async with await Serving.start(
        "tests.system.process_engine:Frontend", *options, cwd=tmp_path, environment=environment
    ) as serving:
        yield serving


def engine_of(worker: int) -> int:
    """The process of the engine of a worker."""
    [engine] = children_of(worker)
    return engine


def take_memory_away(pid: int) -> None:
    """Let a process have as much as it has now, and no more."""
    size_pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    size_bytes = size_pages * resource.getpagesize()
    resource.prlimit(pid, resource.RLIMIT_AS, (size_bytes, size_bytes))


async def test_an_engine_without_memory_ends_its_worker_which_is_started_again_and_no_answer_is_lost(
    serving: Serving,
) -> None:
    url = (await serving.line(r"listening on (http://\S+)"))[1]
    await serving.ready()
    before = serving.workers()
    engines = {label: engine_of(pid) for label, pid in before.items() if label.startswith("Worker")}
    async with client_of(url) as client:
        begun = asyncio.Semaphore(0)
        prompts = [f"hungry {n}" for n in range(NUM_STREAMS)]
        asking = [
            asyncio.create_task(ask(client, prompt, NUM_TOKENS, on_chunk=lambda _: begun.release()))
            for prompt in prompts
        ]
        for _ in range(10 * NUM_STREAMS):
            await begun.acquire()
        take_memory_away(engines["Worker:1"])
        for prompt, answer in zip(prompts, await asyncio.gather(*asking), strict=True):
            assert_exact(answer, prompt, NUM_TOKENS)
        await all_gone([engines["Worker:1"]])
        assert "MemoryError" in serving.text
        await serving.line(r"^error: Worker:1 is gone \(.*engine's process is gone, with status 1")
        await serving.line("^Worker:1 is ready again$")
        after = serving.workers()
        assert after["Worker:1"] != before["Worker:1"]
        assert after["Worker:2"] == before["Worker:2"]
        assert engine_of(after["Worker:2"]) == engines["Worker:2"]
        for n in range(4):
            assert_exact(await ask(client, f"again {n}", 10), f"again {n}", 10)
    serving.interrupt()
    assert await serving.exit_status() == 0, serving.text

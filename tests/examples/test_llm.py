"""The llm example and the demo: a real model, real processes, and the openai package as the client."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import openai
import pytest
import pytest_asyncio
from openai.types.chat import ChatCompletionChunk, ChatCompletionUserMessageParam
from tests.cli.serving import DEADLINE_S, Serving, all_gone, children_of, environment_of, readme_commands
from tests.free_port import free_port

EXAMPLE = Path(__file__).parents[2] / "examples" / "llm"
MESSAGE: ChatCompletionUserMessageParam = {"role": "user", "content": "Count to a thousand, slowly."}


@asynccontextmanager
async def graph(
    tmp_path: Path, model: Path, name: str = "graphs.agg:Frontend"
) -> AsyncIterator[tuple[Serving, openai.AsyncOpenAI]]:
    """A graph of the README on a free port, and a client of it. Ctrl-C ends it, with status 0."""
    [arguments] = [one for one in readme_commands(EXAMPLE, "dynamo serve") if name in one]
    port = free_port()
    overrides = [f"--Worker.model_path={model}", "--Worker.model_name=tiny-model", f"--Frontend.http_port={port}"]
    async with await Serving.start(
        *arguments[:-1], *overrides, cwd=EXAMPLE, environment=environment_of(tmp_path)
    ) as serving:
        await serving.ready()
        async with openai.AsyncOpenAI(
            base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=DEADLINE_S
        ) as client:
            yield serving, client
        serving.interrupt()
        assert await serving.exit_status() == 0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def agg(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path
) -> AsyncIterator[tuple[Serving, openai.AsyncOpenAI]]:
    """The one that tests share: a start takes longer than what they ask of it."""
    async with graph(tmp_path_factory.mktemp("agg"), tiny_model) as started:
        yield started


async def open_stream(client: openai.AsyncOpenAI, max_tokens: int) -> openai.AsyncStream[ChatCompletionChunk]:
    return await client.chat.completions.create(
        model="tiny-model",
        messages=[MESSAGE],
        max_tokens=max_tokens,
        stream=True,
        temperature=0,
        extra_body={"ignore_eos": True},
    )


@pytest.mark.asyncio(loop_scope="module")
async def test_the_openai_package_streams_and_unary_answers_the_same(agg: tuple[Serving, openai.AsyncOpenAI]) -> None:
    _, client = agg
    assert [model.id async for model in client.models.list()] == ["tiny-model"]
    chunks = [chunk async for chunk in await open_stream(client, 24)]
    streamed = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["length"]
    whole = await client.chat.completions.create(
        model="tiny-model", messages=[MESSAGE], max_tokens=24, temperature=0, extra_body={"ignore_eos": True}
    )
    assert whole.choices[0].message.content == streamed
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 24


@pytest.mark.asyncio(loop_scope="module")
async def test_the_streams_of_a_worker_that_is_killed_go_on_and_the_next_request_succeeds(
    agg: tuple[Serving, openai.AsyncOpenAI],
) -> None:
    serving, client = agg
    streams = [await open_stream(client, 3000) for _ in range(2)]  # one on each worker
    for stream in streams:
        await anext(stream)
    os.kill(worker_pids(serving)[0], signal.SIGKILL)
    await asyncio.gather(*(read_on(stream) for stream in streams))
    await serving.line("goes to another worker")
    for stream in streams:
        await stream.close()
    for _ in range(3):
        assert [chunk async for chunk in await open_stream(client, 4)][-1].choices[0].finish_reason == "length"


async def test_with_the_kv_router_a_prompt_that_repeats_goes_where_it_is_cached(
    tmp_path: Path, tiny_model: Path
) -> None:
    async with graph(tmp_path, tiny_model, "graphs.agg_router:Frontend") as (_, client):
        workers, predicted = [], 0
        async with asyncio.timeout(DEADLINE_S):
            while not predicted:
                whole = await client.chat.completions.create(
                    model="tiny-model", messages=[MESSAGE], max_tokens=2, extra_body={"nvext": {"explain": True}}
                )
                assert whole.model_extra is not None
                [decision] = whole.model_extra["nvext"]["explain"]["decisions"]
                workers.append(decision["worker_id"])
                predicted = decision["predicted_cached_tokens"]
        assert whole.usage is not None
        assert whole.usage.prompt_tokens_details is not None
        assert whole.usage.prompt_tokens_details.cached_tokens == predicted
        assert workers[-1] in workers[:-1]


async def read_on(stream: openai.AsyncStream[ChatCompletionChunk]) -> None:
    """Read on until the stream has plainly outlived the worker that was killed."""
    for _ in range(200):
        await anext(stream)


def worker_pids(serving: Serving) -> list[int]:
    """The processes of the service `Worker`."""
    return [
        pid
        for pid in children_of(serving.process.pid)
        if b"--service-name\0Worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


@asynccontextmanager
async def demo(tmp_path: Path, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(EXAMPLE / "demo.py"), *arguments),
        env=environment_of(tmp_path),
        stdout=PIPE,
        stderr=STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_the_demo_streams_an_answer_says_what_to_try_and_leaves_nothing_running(
    tmp_path: Path, tiny_model: Path
) -> None:
    port = str(free_port())
    async with demo(tmp_path, "--port", port, "--model", str(tiny_model)) as process:
        text = await read_until(process, "Ctrl-C ends it")
        assert re.search(r"^\[finish_reason: (length|stop)\]$", text, re.MULTILINE)
        assert f"curl -N http://127.0.0.1:{port}/v1/chat/completions" in text
        assert f'OpenAI(base_url="http://127.0.0.1:{port}/v1"' in text
        serving = children_of(process.pid)
        pids = [pid for parent in serving for pid in [parent, *children_of(parent)]]
        assert len(pids) == 4
        process.send_signal(signal.SIGINT)
        await asyncio.wait_for(process.communicate(), DEADLINE_S)
        assert process.returncode == 0
        await all_gone(pids)


async def read_until(process: asyncio.subprocess.Process, words: str) -> str:
    """Return the output of a process up to the line that has these words."""
    assert process.stdout is not None
    text = ""
    async with asyncio.timeout(DEADLINE_S):
        while words not in text:
            line = await process.stdout.readline()
            assert line, f"it ended before {words!r}:\n{text}"
            text += line.decode(errors="replace")
    return text


async def test_a_demo_that_is_killed_takes_its_graph_along(tmp_path: Path, tiny_model: Path) -> None:
    async with demo(tmp_path, "--port", str(free_port()), "--model", str(tiny_model)) as process:
        await read_until(process, "listening on")
        pids = [pid for parent in children_of(process.pid) for pid in [parent, *children_of(parent)]]
        assert len(pids) > 1
        process.kill()
        await all_gone(pids)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [(["--model", "no/such/model"], "no/such/model"), (["--port", "{taken}"], "{taken}")],
    ids=["missing model", "port in use"],
)
async def test_a_demo_that_cannot_serve_says_why_and_fails(
    tmp_path: Path, tiny_model: Path, arguments: list[str], complaint: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        given = [argument.format(taken=port) for argument in arguments]
        if "--model" not in given:
            given += ["--model", str(tiny_model)]
        if "--port" not in given:
            given += ["--port", str(free_port())]
        async with demo(tmp_path, "--once", *given) as process:
            output, _ = await asyncio.wait_for(process.communicate(), DEADLINE_S)
            text = output.decode(errors="replace")
            assert process.returncode == 1, text
            assert complaint.format(taken=port) in text
            assert "Traceback" not in text

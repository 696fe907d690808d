"""`dynamo route` as a process, in front of servers of our own that know nothing of it."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest
from openai import AsyncOpenAI
from tests.frontend.test_command import START_S, Process, running

LONG = "The quick brown fox jumps over the lazy dog. " * 30


@asynccontextmanager
async def echo_servers(
    directory: Path, model: Path, *, token_delay_s: float = 0.0
) -> AsyncIterator[tuple[list[Process], list[str]]]:
    """Two OpenAI servers, each a process that says prompts back."""
    async with AsyncExitStack() as stack:
        processes = [
            await stack.enter_async_context(
                running(
                    directory,
                    "dynamo.cli",
                    "run",
                    "in=http",
                    "out=echo",
                    str(model),
                    "--http-port",
                    "0",
                    "--token-delay-s",
                    str(token_delay_s),
                    "--model-name",
                    "tiny",
                )
            )
            for _ in range(2)
        ]
        yield processes, [(await process.line("ready: ")).rpartition(" ")[2] for process in processes]


@asynccontextmanager
async def route_to(directory: Path, urls: list[str], *options: str) -> AsyncIterator[tuple[Process, str]]:
    backends = [word for url in urls for word in ("--backend", url)]
    async with running(directory, "dynamo.cli", "route", *backends, "--http-port", "0", *options) as process:
        url = (await process.line("listening on ")).rpartition(" ")[2]
        ready = await process.line("ready: ")
        assert ready == f"ready: {len(urls)} of {len(urls)} backends answer, and list tiny"
        yield process, url


@pytest.mark.parametrize("with_tokenizer", [False, True])
async def test_the_openai_client_talks_through_it_and_prompts_stay_where_they_are_cached(
    tmp_path: Path, tiny_model: Path, with_tokenizer: bool
) -> None:
    options = ["--model-path", str(tiny_model)] if with_tokenizer else []
    async with (
        echo_servers(tmp_path, tiny_model) as (_, urls),
        route_to(tmp_path, urls, *options) as (process, url),
        AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=START_S) as client,
    ):
        assert [model.id async for model in client.models.list()] == ["tiny"]
        taken = []
        for number in range(3):
            message = {"role": "user", "content": f"{number} {LONG}"}
            for again in range(2):
                answer = await client.chat.completions.create(
                    model="tiny",
                    messages=[message],  # type: ignore[list-item]  # as the API has it
                    max_tokens=4,
                    extra_headers={"x-dynamo-explain": "1"},
                )
                assert answer.choices[0].finish_reason == "length"
                [decision] = answer.model_extra["nvext"]["explain"]["decisions"]  # type: ignore[index]
                assert bool(decision["predicted_cached_tokens"]) is bool(again)
                taken.append(decision["worker_id"])
        assert taken[0::2] == taken[1::2]
        stream = await client.completions.create(model="tiny", prompt="some words", max_tokens=4, stream=True)
        chunks = [chunk async for chunk in stream]
        assert chunks[-1].choices[0].finish_reason == "length"
        process.process.send_signal(signal.SIGTERM)
        assert await process.end() == 0


async def test_a_server_that_is_killed_mid_stream_is_an_error_in_it_and_the_next_request_goes_elsewhere(
    tmp_path: Path, tiny_model: Path
) -> None:
    async with (
        echo_servers(tmp_path, tiny_model, token_delay_s=0.05) as (servers, urls),
        route_to(tmp_path, urls, "--router-mode", "direct") as (_, url),
        httpx.AsyncClient(base_url=url, timeout=START_S) as client,
    ):
        body = {"model": "tiny", "prompt": LONG, "stream": True}
        headers = {"x-dynamo-worker-instance-id": "1"}
        async with client.stream("POST", "/v1/completions", json=body, headers=headers) as response:
            lines: list[str] = []
            async for line in response.aiter_lines():
                if not lines:
                    servers[0].process.kill()
                lines += [line] if line else []
        assert '"code":"disconnected"' in lines[-1]
        other = await client.post(
            "/v1/completions", json=body | {"stream": False, "max_tokens": 2},
            headers={"x-dynamo-worker-instance-id": "2"},
        )  # fmt: skip
        assert other.status_code == 200

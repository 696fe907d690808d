"""Everything together: a real client, a real server, and workers behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import openai
import pytest
from openai.types.chat import ChatCompletionUserMessageParam
from tests.llm.scene import DEADLINE_S, MODEL, ScriptedEngine, World, forever, load_tokenizer, says_text

from dynamo.frontend._config import FrontendConfig
from dynamo.frontend._serving import FrontendServer
from dynamo.llm import EngineOutput, PreprocessedRequest

TEXT = "Grüße, 世界! 🙂 It is ten o'clock."
MESSAGES = [ChatCompletionUserMessageParam(role="user", content="How late is it?")]


@asynccontextmanager
async def frontend(world: World) -> AsyncIterator[openai.AsyncOpenAI]:
    """A frontend of this world, and a client of it."""
    server = FrontendServer(FrontendConfig(http_port=0, drain_s=0.0))
    async with world.runtime() as runtime:
        url = await server.start(runtime)
        try:
            async with openai.AsyncOpenAI(
                api_key="none", base_url=f"{url}/v1", max_retries=0, timeout=DEADLINE_S
            ) as client:
                async with asyncio.timeout(DEADLINE_S):
                    yield client
        finally:
            await server.stop()


@asynccontextmanager
async def client_of(engine: ScriptedEngine, model: Path) -> AsyncIterator[openai.AsyncOpenAI]:
    """A client of a frontend that has this engine, and is ready."""
    world = World()
    async with world.worker(engine, model), frontend(world) as client:
        await until_served(client)
        yield client


async def until_served(client: openai.AsyncOpenAI, served: bool = True) -> None:
    """Ask for the models until there are some, or none."""
    while bool((await client.models.list()).data) is not served:  # noqa: ASYNC110
        await asyncio.sleep(0)


async def test_a_chat_is_answered_whole_and_as_a_stream(tiny_model: Path) -> None:
    engine = ScriptedEngine(says_text(await load_tokenizer(tiny_model), TEXT))
    async with client_of(engine, tiny_model) as client:
        whole = await client.chat.completions.create(model=MODEL, messages=MESSAGES, n=2)
        stream = await client.chat.completions.create(
            model=MODEL, messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    assert [choice.message.content for choice in whole.choices] == [TEXT, TEXT]
    assert [choice.finish_reason for choice in whole.choices] == ["stop", "stop"]
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == TEXT
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == "stop"
    assert whole.usage is not None
    assert chunks[-1].usage is not None
    assert whole.usage.completion_tokens == 2 * chunks[-1].usage.completion_tokens


async def test_a_completion_is_answered_whole_and_as_a_stream(tiny_model: Path) -> None:
    engine = ScriptedEngine(says_text(await load_tokenizer(tiny_model), TEXT, log_probs=True))
    async with client_of(engine, tiny_model) as client:
        whole = await client.completions.create(model=MODEL, prompt=["a", "b"], logprobs=0)
        stream = await client.completions.create(model=MODEL, prompt="a", stream=True)
        text = "".join([choice.text async for chunk in stream for choice in chunk.choices])
    assert [choice.text for choice in whole.choices] == [TEXT, TEXT]
    assert whole.choices[0].logprobs is not None
    assert whole.choices[0].logprobs.token_logprobs is not None
    assert text == TEXT


async def test_errors_are_those_that_the_client_knows(tiny_model: Path) -> None:
    engine = ScriptedEngine(forever)
    async with client_of(engine, tiny_model) as client:
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            await client.chat.completions.create(model="other", messages=MESSAGES)
        with pytest.raises(openai.BadRequestError, match="not served yet"):
            await client.chat.completions.create(
                model=MODEL, messages=MESSAGES, response_format={"type": "json_object"}
            )
        with pytest.raises(openai.BadRequestError, match="context length") as caught:
            await client.completions.create(model=MODEL, prompt="word " * 20_000)
        assert caught.value.param == "prompt"
        assert not engine.requests


async def test_a_client_that_leaves_closes_the_engines_generator(tiny_model: Path) -> None:
    engine = ScriptedEngine(forever)
    async with client_of(engine, tiny_model) as client:
        stream = await client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
        async for _ in stream:
            break
        await stream.close()
        async with asyncio.timeout(DEADLINE_S):
            await engine.closed.wait()


async def test_an_engine_that_fails_mid_stream_is_an_error_to_the_client_and_says_why_in_the_log(
    tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    is_heard = asyncio.Event()

    async def script(_: PreprocessedRequest) -> AsyncIterator[EngineOutput]:
        yield EngineOutput(token_ids=[65])
        await is_heard.wait()
        raise RuntimeError("out of memory")

    async with client_of(ScriptedEngine(script), tiny_model) as client:
        stream = await client.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True)
        with pytest.raises(openai.APIError, match="the server failed to answer; its log says why"):
            async for _ in stream:
                is_heard.set()
    assert "RuntimeError: out of memory" in caplog.text


async def test_a_worker_that_leaves_and_returns_is_a_503_in_between(tiny_model: Path) -> None:
    world = World()
    tokenizer = await load_tokenizer(tiny_model)
    async with frontend(world) as client:
        async with world.worker(ScriptedEngine(says_text(tokenizer, TEXT)), tiny_model):
            await until_served(client)
        await until_served(client, False)
        with pytest.raises(openai.InternalServerError, match="no worker serves the model right now") as caught:
            await client.chat.completions.create(model=MODEL, messages=MESSAGES)
        assert caught.value.status_code == 503
        assert caught.value.response.headers["retry-after"] == "1"
        async with world.worker(ScriptedEngine(says_text(tokenizer, TEXT)), tiny_model):
            await until_served(client)
            answer = await client.chat.completions.create(model=MODEL, messages=MESSAGES)
            assert answer.choices[0].message.content == TEXT

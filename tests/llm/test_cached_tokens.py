"""How much of a prompt was cached: from the engine's word to the usage of an OpenAI answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from tests.llm.scene import DEADLINE_S, MODEL, Script, ScriptedEngine, World, load_tokenizer, says

from dynamo._core.context import Context
from dynamo._core.errors import Disconnected
from dynamo.llm import CompletionUsage, EngineOutput, PreprocessedRequest
from dynamo.llm._engine_request import completion_usage
from dynamo.llm._messages import PromptTokensDetails
from dynamo.llm._openai import ChatRequest, CompletionRequest, OpenAIRequest, parse

Json = dict[str, Any]


def usage(request: PreprocessedRequest, cached_tokens: int | None) -> CompletionUsage:
    details = None if cached_tokens is None else PromptTokensDetails(cached_tokens)
    num_tokens = len(request.token_ids)
    return CompletionUsage(num_tokens, 1, num_tokens + 1, prompt_tokens_details=details)


def caches(cached_tokens: int | None) -> Script:
    async def script(request: PreprocessedRequest) -> AsyncIterator[EngineOutput]:
        yield EngineOutput([65], finish_reason="stop", completion_usage=usage(request, cached_tokens))

    return script


def chat(**fields: Any) -> ChatRequest:
    body: Json = {"model": MODEL, "messages": [{"role": "user", "content": "How late is it?"}], "max_tokens": 100}
    return parse(ChatRequest, body | fields)


def completion(**fields: Any) -> CompletionRequest:
    return parse(CompletionRequest, {"model": MODEL, "prompt": "It is late", "max_tokens": 100, **fields})


async def usage_of(script: Script, model: Path, request: OpenAIRequest) -> Json:
    world = World()
    async with (
        asyncio.timeout(DEADLINE_S),
        world.worker(ScriptedEngine(script), model),
        world.models() as models,
    ):
        pipeline = models.pipeline(MODEL)
        if not request.stream:
            whole = msgspec.json.decode(await pipeline.complete(request, Context()))
            return cast("Json", whole["usage"])
        async with aclosing(pipeline.stream(request, Context())) as batches:
            chunks = [msgspec.json.decode(chunk) async for batch in batches for chunk in batch]
        return cast("Json", chunks[-1]["usage"])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", [chat, completion])
@pytest.mark.parametrize("cached_tokens", [0, 2])
async def test_the_usage_says_how_many_tokens_of_the_prompt_were_cached(
    tiny_model: Path, kind: Any, stream: bool, cached_tokens: int
) -> None:
    fields: Json = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    got = await usage_of(caches(cached_tokens), tiny_model, kind(**fields))
    assert got["prompt_tokens_details"] == {"cached_tokens": cached_tokens}


@pytest.mark.parametrize("script", [caches(None), says(EngineOutput([65], finish_reason="stop"))])
async def test_an_engine_that_does_not_say_is_not_spoken_for(tiny_model: Path, script: Script) -> None:
    assert "prompt_tokens_details" not in await usage_of(script, tiny_model, chat())


async def test_what_the_first_output_says_counts_for_an_answer_that_a_stop_string_cuts(tiny_model: Path) -> None:
    tokenizer = await load_tokenizer(tiny_model)

    async def script(request: PreprocessedRequest) -> AsyncIterator[EngineOutput]:
        yield EngineOutput(tokenizer.encode_now("Ten ", add_special_tokens=False), completion_usage=usage(request, 3))
        yield EngineOutput(tokenizer.encode_now("o'clock", add_special_tokens=False))
        await asyncio.Event().wait()

    got = await usage_of(script, tiny_model, completion(stop="clock"))
    assert got["prompt_tokens_details"] == {"cached_tokens": 3}


async def test_a_prompt_counts_once_however_many_answers_it_has(tiny_model: Path) -> None:
    num_requests = 0

    async def script(request: PreprocessedRequest) -> AsyncIterator[EngineOutput]:
        nonlocal num_requests
        num_requests += 1
        yield EngineOutput([65], finish_reason="stop", completion_usage=usage(request, 2))

    got = await usage_of(script, tiny_model, completion(prompt=["It is late", "It is early"], n=3))
    assert num_requests == 6
    assert got["prompt_tokens_details"] == {"cached_tokens": 4}


async def test_of_a_request_that_moved_the_last_worker_says_it_and_only_of_the_prompt(tiny_model: Path) -> None:
    async def script(request: PreprocessedRequest) -> AsyncIterator[EngineOutput]:
        if not request.num_resumed_tokens:
            yield EngineOutput([65, 66, 67], completion_usage=usage(request, 1))
            raise Disconnected("the worker is gone")
        yield EngineOutput([68], finish_reason="stop", completion_usage=usage(request, len(request.token_ids)))

    got = await usage_of(script, tiny_model, chat())
    assert got["prompt_tokens_details"] == {"cached_tokens": got["prompt_tokens"]}


@pytest.mark.parametrize(("num_cached", "said"), [(0, 0), (3, 3), (5, 5), (7, 5)])
def test_engines_say_no_more_tokens_to_be_cached_than_the_prompt_has(num_cached: int, said: int) -> None:
    assert completion_usage(5, 2, num_cached) == CompletionUsage(5, 2, 7, PromptTokensDetails(said))


def test_engines_that_do_not_know_what_was_cached_say_nothing_of_it() -> None:
    assert completion_usage(5, 2) == CompletionUsage(5, 2, 7, prompt_tokens_details=None)

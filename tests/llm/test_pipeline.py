"""From a request to its chunks, over a real runtime, with an engine that does as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.llm.scene import (
    DEADLINE_S,
    MODEL,
    Script,
    ScriptedEngine,
    World,
    forever,
    load_tokenizer,
    never,
    says,
    says_text,
)

from dynamo._core.context import Context
from dynamo._core.errors import (
    DynamoError,
    HandlerError,
    InvalidArgument,
    Overloaded,
    ProtocolError,
    StreamIncomplete,
)
from dynamo.llm import EngineOutput, PreprocessedRequest
from dynamo.llm._models import Pipeline
from dynamo.llm._openai import ChatRequest, CompletionRequest, OpenAIRequest, parse
from dynamo.llm._pipeline import BATCH_MAX
from dynamo.llm._tokenizer import Tokenizer

TEXT = "Grüße, 世界! 🙂 It is ten o'clock."
Json = dict[str, Any]


def chat(**fields: Any) -> ChatRequest:
    body: Json = {"model": MODEL, "messages": [{"role": "user", "content": "How late is it?"}], "max_tokens": 100}
    return parse(ChatRequest, body | fields)


def completion(**fields: Any) -> CompletionRequest:
    body: Json = {"model": MODEL, "prompt": "It is", "max_tokens": 100}
    return parse(CompletionRequest, body | fields)


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Tokenizer:
    return asyncio.run(load_tokenizer(tiny_model))


@asynccontextmanager
async def pipeline_to(engine: ScriptedEngine, model: Path) -> AsyncIterator[Pipeline]:
    world = World()
    async with world.worker(engine, model), world.models() as models:
        yield models.pipeline(MODEL)


async def streamed(pipeline: Pipeline, request: OpenAIRequest) -> list[Json]:
    """Return the chunks of a stream."""
    async with asyncio.timeout(DEADLINE_S), aclosing(pipeline.stream(request, Context("r1"))) as batches:
        return [msgspec.json.decode(chunk) async for batch in batches for chunk in batch]


async def completed(pipeline: Pipeline, request: OpenAIRequest) -> Json:
    async with asyncio.timeout(DEADLINE_S):
        return cast(Json, msgspec.json.decode(await pipeline.complete(request, Context("r1"))))


async def answer(script: Script, model: Path, request: OpenAIRequest) -> list[Json]:
    async with pipeline_to(ScriptedEngine(script), model) as pipeline:
        return await streamed(pipeline, request)


def text_of(chunks: list[Json], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(choice["delta"]["content"] if "delta" in choice else choice["text"] for choice in choices)


def reasons_of(chunks: list[Json], index: int = 0) -> list[str]:
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return [choice["finish_reason"] for choice in choices if choice["finish_reason"] is not None]


async def test_a_chat_streams_its_text_its_role_and_one_reason(tiny_model: Path, tokenizer: Tokenizer) -> None:
    chunks = await answer(says_text(tokenizer, TEXT), tiny_model, chat(stream=True))
    assert text_of(chunks) == TEXT
    assert reasons_of(chunks) == ["stop"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert [chunk["choices"][0]["delta"].get("role") for chunk in chunks[:2]] == ["assistant", None]
    assert {chunk["id"] for chunk in chunks} == {"chatcmpl-r1"}
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert {chunk["model"] for chunk in chunks} == {MODEL}
    assert all("usage" not in chunk for chunk in chunks)


async def test_a_completion_streams_its_text(tiny_model: Path, tokenizer: Tokenizer) -> None:
    chunks = await answer(says_text(tokenizer, TEXT), tiny_model, completion(stream=True))
    assert text_of(chunks) == TEXT
    assert reasons_of(chunks) == ["stop"]
    assert {(chunk["id"], chunk["object"]) for chunk in chunks} == {("cmpl-r1", "text_completion")}


async def test_usage_is_the_last_chunk_and_null_in_the_others(tiny_model: Path, tokenizer: Tokenizer) -> None:
    chunks = await answer(
        says_text(tokenizer, TEXT), tiny_model, chat(stream=True, stream_options={"include_usage": True})
    )
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["choices"] == []
    usage = chunks[-1]["usage"]
    assert usage["completion_tokens"] == len(tokenizer.encode_now(TEXT, add_special_tokens=False))
    assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"]


@settings(deadline=None, max_examples=40)
@given(
    text=st.text(st.characters(codec="utf-8"), min_size=1, max_size=40),
    is_chat=st.booleans(),
    n=st.integers(1, 3),
    stop=st.lists(st.text(min_size=1, max_size=3), max_size=2),
    logprobs=st.booleans(),
)
def test_the_whole_answer_is_what_the_stream_adds_up_to(
    tiny_model: Path, tokenizer: Tokenizer, text: str, is_chat: bool, n: int, stop: list[str], logprobs: bool
) -> None:
    kind = chat if is_chat else completion
    fields: Json = {"n": n, "stop": stop, "max_tokens": 1000}
    if logprobs:
        fields["logprobs"] = True if is_chat else 0

    async def both() -> tuple[list[Json], Json]:
        engine = ScriptedEngine(says_text(tokenizer, text, log_probs=True))
        async with pipeline_to(engine, tiny_model) as pipeline:
            stream = await streamed(pipeline, kind(stream=True, stream_options={"include_usage": True}, **fields))
            return stream, await completed(pipeline, kind(**fields))

    chunks, whole = asyncio.run(both())
    assert whole["usage"] == chunks[-1]["usage"]
    assert [choice["index"] for choice in whole["choices"]] == list(range(n))
    for choice in whole["choices"]:
        shown = choice["message"]["content"] if is_chat else choice["text"]
        assert shown == text_of(chunks, choice["index"])
        assert [choice["finish_reason"]] == reasons_of(chunks, choice["index"])
        assert not any(one in shown for one in stop)
        pieces = [one["logprobs"] for chunk in chunks for one in chunk["choices"] if one["index"] == choice["index"]]
        if not logprobs:
            assert choice["logprobs"] is None
        elif is_chat:
            assert choice["logprobs"]["content"] == [one for piece in pieces for one in piece["content"]]
        else:
            for name in ("tokens", "token_logprobs", "text_offset"):
                assert choice["logprobs"][name] == [one for piece in pieces for one in piece[name]]


async def test_a_stop_string_ends_the_answer_and_the_workers_work(tiny_model: Path, tokenizer: Tokenizer) -> None:
    token_ids = tokenizer.encode_now("one two END three", add_special_tokens=False)

    async def script(_: PreprocessedRequest) -> AsyncIterator[EngineOutput]:
        for token_id in token_ids:
            yield EngineOutput(token_ids=[token_id])
        await asyncio.Event().wait()

    engine = ScriptedEngine(script)
    async with pipeline_to(engine, tiny_model) as pipeline:
        chunks = await streamed(pipeline, chat(stream=True, stop="END"))
        assert text_of(chunks) == "one two "
        assert reasons_of(chunks) == ["stop"]
        async with asyncio.timeout(DEADLINE_S):
            await engine.closed.wait()


async def test_the_end_of_sequence_token_is_counted_and_not_shown(tiny_model: Path, tokenizer: Tokenizer) -> None:
    first = tokenizer.encode_now("Hi", add_special_tokens=False)

    async def script(request: PreprocessedRequest) -> AsyncIterator[EngineOutput]:
        yield EngineOutput(token_ids=first)
        yield EngineOutput(token_ids=[request.eos_token_ids[0]], finish_reason="stop")

    async with pipeline_to(ScriptedEngine(script), tiny_model) as pipeline:
        whole = await completed(pipeline, chat())
    assert whole["choices"][0]["message"]["content"] == "Hi"
    assert whole["usage"]["completion_tokens"] == len(first) + 1


@pytest.mark.parametrize(
    ("outputs", "error", "words"),
    [
        ([], StreamIncomplete, "without a finish reason"),
        ([EngineOutput([65])], StreamIncomplete, "without a finish reason"),
        ([EngineOutput([65], finish_reason="error")], HandlerError, "the engine ended the request with an error"),
        ([EngineOutput([65], finish_reason="cancelled")], StreamIncomplete, "cancelled"),
        ([EngineOutput([65] * 101, finish_reason="length")], ProtocolError, "at most 100 were asked for"),
        ([EngineOutput([65], finish_reason="stop"), EngineOutput([65])], ProtocolError, "after its finish reason"),
        ([EngineOutput([2**40], finish_reason="stop")], ProtocolError, "no token id"),
    ],
)
async def test_a_worker_that_breaks_its_word_is_an_error(
    tiny_model: Path, outputs: list[EngineOutput], error: type[DynamoError], words: str
) -> None:
    for request in (chat(stream=True), completion()):
        async with pipeline_to(ScriptedEngine(says(*outputs)), tiny_model) as pipeline:
            with pytest.raises(error, match=words):
                await (streamed if request.stream else completed)(pipeline, request)


async def test_an_item_that_is_no_engine_output_is_a_protocol_error(tiny_model: Path) -> None:
    async def script(_: PreprocessedRequest) -> AsyncIterator[EngineOutput]:
        yield cast(EngineOutput, {"token_ids": "many"})

    with pytest.raises(ProtocolError, match="cannot be read"):
        await answer(script, tiny_model, chat(stream=True))


async def test_the_engines_own_error_arrives_as_it_is(tiny_model: Path) -> None:
    async def script(_: PreprocessedRequest) -> AsyncIterator[EngineOutput]:
        yield EngineOutput([65])
        raise Overloaded("no blocks left")

    with pytest.raises(Overloaded, match="no blocks left"):
        await answer(script, tiny_model, chat(stream=True))


@pytest.mark.parametrize("script", [forever, never])
async def test_closing_the_stream_closes_the_engines_generator(tiny_model: Path, script: Script) -> None:
    engine = ScriptedEngine(script)
    async with pipeline_to(engine, tiny_model) as pipeline, asyncio.timeout(DEADLINE_S):
        for request in (chat(stream=True, n=1), chat(stream=True, n=2)):
            engine.started.clear()
            engine.closed.clear()
            stream = asyncio.create_task(streamed(pipeline, request))
            await engine.started.wait()
            stream.cancel()
            await asyncio.wait([stream])
            await engine.closed.wait()


async def test_several_answers_have_their_own_index_seed_and_request(tiny_model: Path, tokenizer: Tokenizer) -> None:
    engine = ScriptedEngine(says_text(tokenizer, TEXT))
    async with pipeline_to(engine, tiny_model) as pipeline:
        whole = await completed(pipeline, completion(prompt=["a", "b"], n=2, seed=7))
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2, 3]
    assert sorted(request.sampling_options.seed or 0 for request in engine.requests) == [7, 7, 8, 8]
    assert whole["usage"]["completion_tokens"] == 4 * len(tokenizer.encode_now(TEXT, add_special_tokens=False))


async def test_one_failing_answer_of_several_fails_the_request(tiny_model: Path) -> None:
    async def script(request: PreprocessedRequest) -> AsyncIterator[EngineOutput]:
        if request.sampling_options.seed == 1:
            raise Overloaded("no blocks left")
        await asyncio.Event().wait()
        yield EngineOutput()

    engine = ScriptedEngine(script)
    async with pipeline_to(engine, tiny_model) as pipeline:
        with pytest.raises(Overloaded):
            await completed(pipeline, chat(n=2, seed=0))
        async with asyncio.timeout(DEADLINE_S):
            await engine.closed.wait()


async def test_more_answers_than_allowed_are_refused(tiny_model: Path) -> None:
    with pytest.raises(InvalidArgument, match="over 128") as caught:
        await answer(never, tiny_model, completion(prompt=["a"] * 100, n=2))
    assert caught.value.details["param"] == "n"


async def test_options_reach_the_engine(tiny_model: Path, tokenizer: Tokenizer) -> None:
    engine = ScriptedEngine(says_text(tokenizer, TEXT))
    async with pipeline_to(engine, tiny_model) as pipeline:
        await completed(
            pipeline,
            chat(
                max_tokens=99, min_tokens=1, ignore_eos=True, stop=["zzz"], temperature=0.5, top_p=0.9, top_k=5,
                min_p=0.1, seed=3, presence_penalty=1, frequency_penalty=-1, repetition_penalty=1.5,
                skip_special_tokens=False,
            ),
        )  # fmt: skip
    [request] = engine.requests
    assert (request.stop_conditions.max_tokens, request.stop_conditions.min_tokens) == (99, 1)
    assert (request.stop_conditions.ignore_eos, request.stop_conditions.stop) == (True, ["zzz"])
    sampling = request.sampling_options
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p, sampling.seed) == (
        0.5,
        0.9,
        5,
        0.1,
        3,
    )
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty) == (1, -1, 1.5)
    assert request.output_options.skip_special_tokens is False


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (completion(prompt="word " * 20_000), "prompt"),
        (chat(messages=[{"role": "user", "content": "word " * 20_000}]), "messages"),
        (chat(max_tokens=2**31 - 1), "max_tokens"),
        (completion(prompt=[2**31]), "prompt"),
        (chat(tools=[{"type": "function", "function": {"name": "f"}}]), "tools"),
    ],
)
async def test_what_does_not_fit_is_refused_before_the_engine(
    tiny_model: Path, request_: OpenAIRequest, param: str
) -> None:
    engine = ScriptedEngine(never)
    async with pipeline_to(engine, tiny_model) as pipeline:
        with pytest.raises(InvalidArgument) as caught:
            await completed(pipeline, request_)
    assert caught.value.details["param"] == param
    assert not engine.requests


async def test_logprobs_that_the_engine_does_not_report_are_an_error(tiny_model: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidArgument, match="reports no log probabilities"):
        await answer(says_text(tokenizer, TEXT), tiny_model, chat(stream=True, logprobs=True))


async def test_logprobs_name_the_tokens(tiny_model: Path, tokenizer: Tokenizer) -> None:
    chunks = await answer(
        says_text(tokenizer, "Hi there", log_probs=True), tiny_model, chat(stream=True, logprobs=True)
    )
    tokens = [one for chunk in chunks for one in chunk["choices"][0]["logprobs"]["content"]]
    assert "".join(one["token"] for one in tokens) == "Hi there"
    assert [one["logprob"] for one in tokens] == [-0.5 * position for position in range(len(tokens))]


async def test_what_comes_together_with_a_stop_string_and_after_it_does_not_count(
    tiny_model: Path, tokenizer: Tokenizer
) -> None:
    token_ids = tokenizer.encode_now("one two three", add_special_tokens=False)
    stop = tokenizer.decode(token_ids[1:2])
    together = says(EngineOutput(token_ids=token_ids, log_probs=[-1.0] * len(token_ids), finish_reason="stop"))
    async with pipeline_to(ScriptedEngine(together), tiny_model) as pipeline:
        whole = await completed(pipeline, completion(stop=[stop], logprobs=0))
    assert whole["usage"]["completion_tokens"] == 2
    assert len(whole["choices"][0]["logprobs"]["tokens"]) == 2


async def test_tokens_that_arrive_together_leave_together(tiny_model: Path, tokenizer: Tokenizer) -> None:
    async with (
        pipeline_to(ScriptedEngine(says_text(tokenizer, TEXT)), tiny_model) as pipeline,
        aclosing(pipeline.stream(chat(stream=True), Context("r1"))) as batches,
    ):
        sizes = [len(batch) async for batch in batches]
    assert sum(sizes) > len(sizes)


async def test_a_flood_of_tokens_is_passed_on_in_parts(tiny_model: Path) -> None:
    flood = [EngineOutput(token_ids=[65])] * 999

    async with (
        pipeline_to(ScriptedEngine(says(*flood, EngineOutput(finish_reason="stop"))), tiny_model) as pipeline,
        aclosing(pipeline.stream(chat(stream=True, max_tokens=999), Context("r1"))) as batches,
    ):
        sizes = [len(batch) async for batch in batches]
    assert sum(sizes) == 1000
    assert max(sizes) <= BATCH_MAX

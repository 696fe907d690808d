"""Models whose workers take text: the body goes out as it came, and chunks come back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.llm.scene import BOTH, MODEL, World

from dynamo._core.context import Context
from dynamo._core.errors import DynamoError, HandlerError, ProtocolError, StreamIncomplete
from dynamo.llm import ModelInput, register_llm
from dynamo.llm._openai import ChatRequest, CompletionRequest, OpenAIRequest, parse
from dynamo.llm._text_pipeline import accumulated

Json = dict[str, Any]
CHAT: Json = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "tools": [{"type": "function"}]}


def delta(reason: str | None = None, index: int = 0, **fields: Any) -> Json:
    return {"choices": [{"index": index, "delta": fields, "finish_reason": reason}]}


async def ask(model: Path, chunks: list[Any], request: OpenAIRequest) -> tuple[list[Json], Json]:
    """Let a worker answer with these chunks; return what comes of it, and what the worker was sent."""
    world = World()
    bodies: list[Json] = []

    async def generate(body: Json) -> AsyncIterator[Json]:
        bodies.append(body)
        for chunk in chunks:
            yield chunk

    async with world.runtime() as runtime:
        at = runtime.endpoint("test.text.generate")
        await at.serve(generate)
        await register_llm(ModelInput.Text, BOTH, at, str(model), MODEL)
        async with world.models() as models:
            pipeline = models.pipeline(MODEL)
            if not request.stream:
                answer = msgspec.json.decode(await pipeline.complete(request, Context("r1")))
                return [answer], bodies[0]
            async with aclosing(pipeline.stream(request, Context("r1"))) as batches:
                return [msgspec.json.decode(one) async for batch in batches for one in batch], bodies[0]


async def test_the_worker_gets_the_body_as_it_was_sent_and_is_asked_to_stream(tiny_model: Path) -> None:
    chunks = [delta(content="hello"), delta("stop")]
    _, body = await ask(tiny_model, chunks, parse(ChatRequest, CHAT | {"stream": True}))
    assert body == CHAT | {"stream": True}
    _, body = await ask(tiny_model, chunks, parse(ChatRequest, CHAT))
    assert body == CHAT | {"stream": True, "stream_options": {"include_usage": True}}


async def test_chunks_are_passed_on_with_their_envelope_filled_in(tiny_model: Path) -> None:
    chunks = [delta(content="hello", reasoning_content="hm"), delta("stop") | {"id": "own"}]
    sent, _ = await ask(tiny_model, chunks, parse(ChatRequest, CHAT | {"stream": True}))
    assert [chunk["choices"] for chunk in sent] == [chunk["choices"] for chunk in chunks]
    assert [chunk["id"] for chunk in sent] == ["chatcmpl-r1", "own"]
    assert sent[0]["object"] == "chat.completion.chunk"


async def test_the_whole_answer_is_what_the_chunks_add_up_to(tiny_model: Path) -> None:
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "clock", "arguments": '{"zo'}}
    chunks = [
        delta(role="assistant", content="It "),
        delta(content="is", reasoning_content="hm, "),
        delta(reasoning_content="well", tool_calls=[call]),
        delta(tool_calls=[{"index": 0, "function": {"arguments": 'ne": 1}'}}]),
        delta("tool_calls"),
        {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}},
    ]
    [whole], _ = await ask(tiny_model, chunks, parse(ChatRequest, CHAT))
    assert whole["object"] == "chat.completion"
    assert whole["usage"]["total_tokens"] == 3
    [choice] = whole["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": "It is",
        "reasoning_content": "hm, well",
        "tool_calls": [
            {"index": 0, "id": "c1", "type": "function", "function": {"name": "clock", "arguments": '{"zone": 1}'}}
        ],
    }


async def test_chunks_may_be_texts_that_are_their_json(tiny_model: Path) -> None:
    chunks = [json.dumps(delta(role="assistant", content="Hel")), delta(content="lo"), json.dumps(delta("stop"))]
    sent, _ = await ask(tiny_model, chunks, parse(ChatRequest, CHAT | {"stream": True}))
    assert sent[0]["choices"] == delta(role="assistant", content="Hel")["choices"]
    [whole], _ = await ask(tiny_model, chunks, parse(ChatRequest, CHAT))
    assert whole["choices"][0]["message"]["content"] == "Hello"


async def test_completions_add_up_too(tiny_model: Path) -> None:
    chunks = [
        {"choices": [{"index": 0, "text": "It ", "finish_reason": None}]},
        {"choices": [{"index": 0, "text": "is", "finish_reason": "stop"}]},
    ]
    [whole], _ = await ask(tiny_model, chunks, parse(CompletionRequest, {"model": MODEL, "prompt": "hi"}))
    assert whole["choices"] == [{"index": 0, "text": "It is", "finish_reason": "stop"}]
    assert (whole["object"], whole["id"]) == ("text_completion", "cmpl-r1")


@pytest.mark.parametrize(
    ("chunks", "error", "words"),
    [
        ([], StreamIncomplete, "without a finish reason"),
        ([delta(content="x")], StreamIncomplete, "without a finish reason"),
        ([delta("stop", 0), delta(index=1, content="x")], ProtocolError, "the index 1; there are 1"),
        ([{"choices": [{"index": True, "delta": {}}]}], ProtocolError, "index True"),
        ([delta("stop"), delta(content="x")], ProtocolError, "after its finish reason"),
        ([{"choices": 5}], ProtocolError, "not a list of objects"),
        ([{"choices": [5]}], ProtocolError, "not a list of objects"),
        ([{"choices": [{"index": "x"}]}], ProtocolError, "index"),
        ([{"choices": [{"index": 0, "delta": "x", "finish_reason": "stop"}]}], ProtocolError, "delta of choice 0"),
        ([{"choices": [{"index": 0, "delta": None, "finish_reason": "stop"}]}], ProtocolError, "delta of choice 0"),
        ([{"choices": [{"index": 0, "finish_reason": 5}]}], ProtocolError, "no text: 5"),
        ([{"error": {"message": "out of memory"}}], HandlerError, "out of memory"),
        ([delta(content="x"), {"error": "out of memory"}], HandlerError, "out of memory"),
        (["text"], ProtocolError, "not the JSON of a chunk"),
        (["[]"], ProtocolError, "list where a chunk is expected"),
        ([5], ProtocolError, "int where a chunk is expected"),
    ],
)
async def test_a_worker_that_breaks_its_word_is_an_error(
    tiny_model: Path, chunks: list[Any], error: type[DynamoError], words: str
) -> None:
    for stream in (True, False):
        with pytest.raises(error, match=words):
            await ask(tiny_model, chunks, parse(ChatRequest, CHAT | {"stream": stream}))


def test_lists_without_an_index_grow() -> None:
    pieces = [{"choices": [{"index": 0, "logprobs": {"content": [{"token": str(n)}]}}]} for n in range(2)]
    answer: Json = accumulated(pieces, {})  # type: ignore[arg-type]
    assert answer["choices"][0]["logprobs"]["content"] == [{"token": "0"}, {"token": "1"}]

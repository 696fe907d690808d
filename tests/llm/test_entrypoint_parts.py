"""`OAIChatPreprocessor` and `Backend`: the two halves of the pipeline, each as an endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from tests.llm.scene import DEADLINE_S, World

from dynamo._core.context import Context
from dynamo._core.errors import InvalidArgument, ProtocolError, StreamIncomplete
from dynamo.echo import EchoEngine
from dynamo.llm import Backend, EngineOutput, OAIChatPreprocessor, PreprocessedRequest, serve_engine
from dynamo.llm._entrypoint_backend import BackendOutput, TokenGenerator
from dynamo.llm._model_card import ModelCard
from dynamo.runtime import Client, DistributedRuntime

HELLO = [104, 101, 108, 108, 111]
BODY: dict[str, object] = {"model": "tiny", "messages": [{"role": "user", "content": "one two three"}]}


@asynccontextmanager
async def chain(model: Path, generator: TokenGenerator) -> AsyncIterator[tuple[Client, Client]]:
    """A preprocessor before a backend before a generator; yield a client of each of the first two."""
    world, card = World(), ModelCard.from_local_path(model, name="tiny")
    async with asyncio.timeout(DEADLINE_S), world.runtime() as runtime, world.runtime() as asker:
        first, second = runtime.endpoint("a.preprocessor.generate"), runtime.endpoint("a.backend.generate")
        backend = asyncio.create_task(Backend(card, second).start(generator))
        preprocessor = asyncio.create_task(OAIChatPreprocessor(card, first, second).start())
        clients = [await asker.endpoint(str(one.id)).client() for one in (first, second)]
        for client in clients:
            await client.wait_for_instances()
        yield clients[0], clients[1]
        runtime.shutdown()
        await asyncio.gather(backend, preprocessor)


async def echo(request: PreprocessedRequest, context: Context) -> AsyncGenerator[EngineOutput, None]:
    async for output in EchoEngine().generate(request, context):
        yield output


class Delta(msgspec.Struct):
    content: str = ""


class Choice(msgspec.Struct):
    delta: Delta
    finish_reason: str | None = None


class Chunk(msgspec.Struct):
    object: str
    choices: list[Choice]


async def chunks_of(client: Client, body: dict[str, object]) -> list[Chunk]:
    return [msgspec.convert(item, Chunk) async for item in await client.generate(body, annotated=False)]


async def outputs_of(client: Client, request: dict[str, object]) -> list[BackendOutput]:
    return [msgspec.convert(item, BackendOutput) async for item in await client.generate(request, annotated=False)]


def text_of(chunks: list[Chunk]) -> str:
    return "".join(choice.delta.content for chunk in chunks for choice in chunk.choices)


async def test_a_chat_request_goes_through_both_and_comes_back_as_chunks(tiny_model: Path) -> None:
    async with chain(tiny_model, echo) as (preprocessor, _):
        chunks = await chunks_of(preprocessor, BODY | {"temperature": 0.5})
    assert text_of(chunks).strip() == "one two three"
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert chunks[-1].choices[0].finish_reason == "stop"


async def test_a_backend_gives_the_text_beside_the_tokens(tiny_model: Path) -> None:
    async def generator(request: PreprocessedRequest) -> AsyncGenerator[dict[str, object], None]:
        for token_id in request.token_ids:
            yield {"token_ids": [token_id]}
        yield {"token_ids": [], "finish_reason": "stop"}

    async with chain(tiny_model, generator) as (_, backend):
        outputs = await outputs_of(backend, {"model": "tiny", "token_ids": HELLO})
    assert [token_id for output in outputs for token_id in output.token_ids] == HELLO
    assert "".join(output.text for output in outputs)
    assert [output.finish_reason for output in outputs] == [None] * 5 + ["stop"]


async def test_a_stop_string_ends_the_answer_and_the_engine(tiny_model: Path) -> None:
    closed = asyncio.Event()

    async def generator(request: PreprocessedRequest, context: Context) -> AsyncGenerator[EngineOutput, None]:
        try:
            async for output in EchoEngine().generate(request, context):
                yield output
        finally:
            closed.set()

    async with chain(tiny_model, generator) as (preprocessor, _):
        chunks = await chunks_of(preprocessor, BODY | {"stop": "two"})
        await closed.wait()
    assert text_of(chunks).strip() == "one"


async def test_the_preprocessor_takes_any_workers_with_token_ids(tiny_model: Path) -> None:
    world, card = World(), ModelCard.from_local_path(tiny_model, name="tiny")
    async with asyncio.timeout(DEADLINE_S), world.runtime() as runtime:
        await serve_engine(runtime.endpoint("a.engine.generate"), EchoEngine())
        at = runtime.endpoint("a.preprocessor.generate")
        serving = asyncio.create_task(OAIChatPreprocessor(card, at, runtime.endpoint("a.engine.generate")).start())
        client = await at.client()
        await client.wait_for_instances()
        chunks = await chunks_of(client, BODY)
        assert text_of(chunks).strip() == "one two three"
        runtime.shutdown()
        await serving


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"model": "tiny"}, "'messages': Field required"),
        (BODY | {"temprature": 1}, r"Unsupported parameter\(s\): `temprature`"),
        (["not", "an", "object"], "the request must be the body of an OpenAI chat request, an object"),
    ],
)
async def test_a_wrong_request_is_told_the_caller(tiny_model: Path, body: object, says: str) -> None:
    async with chain(tiny_model, echo) as (preprocessor, _):
        with pytest.raises(InvalidArgument, match=says):
            await (await preprocessor.generate(body, annotated=False)).batch()


async def test_a_generator_that_breaks_its_word_is_an_error(tiny_model: Path) -> None:
    async def no_reason(request: PreprocessedRequest) -> AsyncGenerator[EngineOutput, None]:
        yield EngineOutput(token_ids=[100])

    async def nonsense(request: PreprocessedRequest) -> AsyncGenerator[dict[str, object], None]:
        yield {"token_ids": "abc"}

    request: dict[str, object] = {"model": "tiny", "token_ids": [100]}
    async with chain(tiny_model, no_reason) as (_, backend):
        with pytest.raises(StreamIncomplete, match="ended without a finish reason"):
            await outputs_of(backend, request)
    async with chain(tiny_model, nonsense) as (_, backend):
        with pytest.raises(ProtocolError, match="what is no output of an engine: Expected `array`, got `str`"):
            await outputs_of(backend, request)
        with pytest.raises(InvalidArgument, match="not a request with token ids"):
            await outputs_of(backend, {"model": "tiny"})


async def test_wrong_arguments_are_refused(tiny_model: Path) -> None:
    card = ModelCard.from_local_path(tiny_model)
    async with DistributedRuntime(discovery="memory:", request_plane="inproc:") as runtime:
        endpoint = runtime.endpoint("a.b.c")
        with pytest.raises(TypeError, match="mdc='card' is of type str: give a ModelDeploymentCard"):
            OAIChatPreprocessor("card", endpoint, endpoint)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"next_endpoint='a\.b\.d' is of type str: give an Endpoint"):
            OAIChatPreprocessor(card, endpoint, "a.b.d")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="endpoint=None is of type NoneType: give an Endpoint"):
            Backend(card, None)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="generator=1 is of type int: give an async generator function"):
            await Backend(card, endpoint).start(1)  # type: ignore[arg-type]

"""What a method may return or take over HTTP is what it may on the request plane."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Iterator

import httpx
import msgspec
import pytest
from pydantic import BaseModel
from tests.sdk.world import DEADLINE_S, World

from dynamo._core.context import Context
from dynamo.llm import HttpError
from dynamo.sdk import api, depends, dynamo_endpoint, service, service_of
from dynamo.sdk._runner import ServiceRunner


class Text(BaseModel):
    text: str


class Record(msgspec.Struct):
    text: str


@service
class Letters:
    @dynamo_endpoint
    async def split(self, request: Text) -> AsyncIterator[str]:
        for letter in request.text:
            yield letter


class Passing:
    letters: Letters


async def passes_on(self: Passing, request: Text) -> AsyncIterator[str]:
    return self.letters.split(request)


async def passes_on_untyped(self, request: Text):  # type: ignore[no-untyped-def]
    return self.letters.split(request)


def passes_on_from_a_thread(self: Passing, request: Text) -> AsyncIterator[str]:
    return self.letters.split(request)


async def returns_its_own_generator(self: Passing, request: Text) -> AsyncIterator[str]:
    async def items() -> AsyncIterator[str]:
        for letter in request.text:
            yield letter

    return items()


def yields_without_async(self: Passing, request: Text) -> Iterator[str]:
    yield from request.text


async def takes_the_context(self: Passing, request: Text, context: Context) -> str:
    return f"{request.text} for {context.request_id}"


async def takes_the_untyped_context(self, request: Text, context) -> str:  # type: ignore[no-untyped-def]
    return f"{request.text} for {context.request_id}"


async def returns_a_struct(self: Passing, request: Text) -> Record:
    return Record(request.text)


async def answer_to(world: World, other: type[object], function: Callable[..., object], text: str) -> httpx.Response:
    """Serve `function` as the endpoint of a service that depends on another one, and post a text to it."""

    @service
    class Web:
        letters = depends(other)
        go = api("go")(function)

    await world.run(other)
    with socket.create_server(("127.0.0.1", 0)) as bound:
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        runner = ServiceRunner(service_of(Web), await world.join(), http_socket=bound)
        try:
            await runner.start()
            async with httpx.AsyncClient(base_url=url, timeout=DEADLINE_S) as client:
                return await client.post("/go", json={"text": text}, headers={"x-request-id": "mine"})
        finally:
            await runner.stop()


async def post(world: World, function: Callable[..., object]) -> str:
    """Return what `function` answers as the endpoint of a service."""
    response = await answer_to(world, Letters, function, "ab")
    assert response.status_code == 200
    return response.text


@pytest.mark.parametrize(
    "function",
    [passes_on, passes_on_untyped, passes_on_from_a_thread, returns_its_own_generator, yields_without_async],
)
async def test_a_stream_that_is_returned_is_sent_as_one_that_is_yielded(
    world: World, function: Callable[..., object]
) -> None:
    assert await post(world, function) == "ab"


@pytest.mark.parametrize("function", [takes_the_context, takes_the_untyped_context])
async def test_a_parameter_named_context_is_the_context_of_the_request(
    world: World, function: Callable[..., object]
) -> None:
    assert await post(world, function) == '"ab for mine"'


async def test_a_msgspec_struct_is_an_answer(world: World) -> None:
    assert await post(world, returns_a_struct) == '{"text":"ab"}'


# A status of the method's own choice.


async def refuses(self: Passing, request: Text) -> str:
    raise HttpError(int(request.text), "not with me")


async def refuses_before_the_first_item(self: Passing, request: Text) -> AsyncIterator[str]:
    raise HttpError(int(request.text), "not with me")
    yield ""


@service
class Refusing:
    @dynamo_endpoint
    async def split(self, request: Text) -> AsyncIterator[str]:
        raise HttpError(int(request.text), "not with me")
        yield ""


class Relaying:
    letters: Refusing


async def is_refused_elsewhere(self: Relaying, request: Text) -> AsyncIterator[str]:
    async for letter in self.letters.split(request):
        yield letter


@pytest.mark.parametrize("function", [refuses, refuses_before_the_first_item, is_refused_elsewhere])
@pytest.mark.parametrize("status", [400, 418, 500, 503])
async def test_an_http_error_is_the_status_and_the_message_of_the_answer(
    world: World, function: Callable[..., object], status: int
) -> None:
    response = await answer_to(world, Refusing, function, str(status))
    assert response.status_code == status
    error = response.json()["error"]
    assert error == {"code": "http_error", "message": "not with me", "request_id": "mine"}
    assert ("retry-after" in response.headers) == (status == 503)


async def test_an_http_error_with_the_status_of_no_error_is_a_fault_of_the_service(world: World) -> None:
    response = await answer_to(world, Refusing, refuses, "200")
    assert (response.status_code, response.json()["error"]["code"]) == (500, "handler_error")
    assert "not with me" not in response.text

"""Typed answers: what a proxy hands out is what the annotation of the endpoint says."""

from __future__ import annotations

import asyncio
import re
import typing
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal, TypedDict

import msgspec
import pytest
from pydantic import BaseModel, ConfigDict, Field
from tests.sdk.world import DEADLINE_S, World

from dynamo._core.errors import ConfigError
from dynamo.runtime import Annotated as AnnotatedItem
from dynamo.runtime import HandlerError
from dynamo.sdk import depends, dynamo_endpoint, service, service_of
from dynamo.sdk._annotations import answer_type
from dynamo.sdk._graph import check
from dynamo.sdk._payload import reader_of
from dynamo.sdk._proxy import ServiceProxy


class Reply(BaseModel):
    word: str


class Number(BaseModel):
    kind: Literal["number"] = "number"
    value: int


class Text(BaseModel):
    kind: Literal["text"] = "text"
    value: str


class Color(StrEnum):
    RED = "red"


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    color: Color
    name: str = Field(alias="the-name")


@dataclass
class Point:
    x: int


class Row(TypedDict):
    reply: Reply


class Record(msgspec.Struct):
    text: str


gone = asyncio.Event()


@service
class Answers:
    @dynamo_endpoint()
    async def unary(self, request: Any) -> Reply:
        return request  # type: ignore[no-any-return]

    @dynamo_endpoint()
    async def stream(self, request: list[Any]) -> AsyncIterator[Reply]:
        for item in request:
            yield item

    @dynamo_endpoint()
    async def generator(self, request: Any) -> AsyncGenerator[Reply, None]:
        yield request

    @dynamo_endpoint()
    def sync(self, request: Any) -> Reply:
        return request  # type: ignore[no-any-return]

    @dynamo_endpoint()
    def sync_stream(self, request: Any) -> Iterator[Reply]:
        yield request

    @dynamo_endpoint()
    async def optional(self, request: Any) -> Reply | None:
        return request  # type: ignore[no-any-return]

    @dynamo_endpoint()
    async def union(self, request: Any) -> Annotated[Number | Text, Field(discriminator="kind")]:
        return request  # type: ignore[no-any-return]

    @dynamo_endpoint()
    async def many(self, request: Any) -> list[Reply]:
        return request  # type: ignore[no-any-return]

    @dynamo_endpoint()
    async def by_name(self, request: Any) -> dict[str, Reply]:
        return request  # type: ignore[no-any-return]

    @dynamo_endpoint()
    async def row(self, request: Any) -> Row:
        return request  # type: ignore[no-any-return]

    @dynamo_endpoint()
    async def point(self, request: Any) -> Point:
        return request  # type: ignore[no-any-return]

    @dynamo_endpoint()
    async def record(self, request: Any) -> Record:
        return request  # type: ignore[no-any-return]

    @dynamo_endpoint()
    async def strict(self, request: Any) -> Strict:
        return request  # type: ignore[no-any-return]

    @dynamo_endpoint()
    async def model_or_text(self, request: Any) -> Reply | str:
        return request  # type: ignore[no-any-return]

    @dynamo_endpoint()
    async def untyped(self, request):  # type: ignore[no-untyped-def]
        return request

    @dynamo_endpoint()
    async def text(self, request: Any) -> str:
        return request  # type: ignore[no-any-return]

    @dynamo_endpoint()
    async def objects(self, request: Any) -> dict[str, Any]:
        return request  # type: ignore[no-any-return]

    @dynamo_endpoint()
    async def annotated(self, request: Any) -> AsyncIterator[AnnotatedItem]:
        yield AnnotatedItem(request, event="note")

    @dynamo_endpoint()
    async def endless(self, request: Any) -> AsyncIterator[Reply]:
        try:
            yield Reply(word="first")
            yield {"wrong": 1}  # type: ignore[misc]
            await asyncio.Event().wait()
        finally:
            gone.set()


@pytest.fixture
async def proxy(world: World) -> AsyncIterator[ServiceProxy]:
    await world.run(Answers)
    proxy = ServiceProxy(service_of(Answers), await world.join())
    yield proxy
    await proxy.close()


A = Reply(word="a")
OBJECT, JSON = {"word": "a"}, '{"word": "a"}'


@pytest.mark.parametrize(
    ("endpoint", "sent", "answer"),
    [
        ("unary", OBJECT, A),
        ("unary", JSON, A),
        ("unary", {"word": "a", "unknown": 1}, A),
        ("generator", OBJECT, A),
        ("sync", OBJECT, A),
        ("sync_stream", JSON, A),
        ("optional", None, None),
        ("optional", OBJECT, A),
        ("optional", JSON, A),
        ("union", {"kind": "text", "value": "a"}, Text(value="a")),
        ("union", '{"kind": "number", "value": 1}', Number(value=1)),
        ("many", [OBJECT, OBJECT], [A, A]),
        ("by_name", {"x": OBJECT}, {"x": A}),
        ("row", {"reply": OBJECT}, {"reply": A}),
        ("point", {"x": 1}, Point(1)),
        ("point", '{"x": 1}', Point(1)),
        ("record", {"text": "a"}, Record("a")),
        ("record", '{"text": "a"}', Record("a")),
        ("strict", Strict.model_validate({"color": Color.RED, "the-name": "a"}), None),
        ("model_or_text", OBJECT, A),
        ("model_or_text", JSON, JSON),
        ("untyped", OBJECT, OBJECT),
        ("text", JSON, JSON),
        ("text", OBJECT, OBJECT),
        ("objects", OBJECT, OBJECT),
        ("annotated", OBJECT, OBJECT),
    ],
)
async def test_an_answer_is_what_the_annotation_says(
    proxy: ServiceProxy, endpoint: str, sent: object, answer: object
) -> None:
    if isinstance(sent, Strict):
        answer = sent  # it was sent with the names of its fields
    received = await getattr(proxy, endpoint)(sent)
    assert received == answer
    assert type(received) is type(answer)


async def test_every_item_of_a_stream_is_a_model(proxy: ServiceProxy) -> None:
    items = [item async for item in proxy.stream([OBJECT, JSON])]
    assert items == [A, A]


@pytest.mark.parametrize(
    ("endpoint", "sent", "message"),
    [
        ("unary", {"wrong": 1}, "1 validation error for Reply: word: Field required"),
        ("unary", 5, "5 is no Reply: "),
        ("unary", "no json", "1 validation error for Reply: Invalid JSON: "),
        ("optional", {"word": 5}, "1 validation error for Reply | None: word: Input should be a valid string"),
        ("union", {"kind": "other"}, "{'kind': 'other'} is no "),
        ("many", [OBJECT, 5], "1 validation error for list[Reply]: 1: Input should be "),
        ("record", {"text": 5}, "no Record: Expected `str`, got `int` - at `$.text`"),
    ],
)
async def test_an_answer_that_does_not_fit_is_an_error_that_names_the_endpoint_and_the_reason(
    proxy: ServiceProxy, endpoint: str, sent: object, message: str
) -> None:
    with pytest.raises(HandlerError) as raised:
        await getattr(proxy, endpoint)(sent)
    assert raised.value.type_name == "InvalidAnswer"
    assert raised.value.message.startswith(f"the answer of Answers.{endpoint} does not fit its annotation: {message}")
    assert "\n" not in raised.value.message


async def test_an_item_that_does_not_fit_ends_the_stream_after_those_before_it(proxy: ServiceProxy) -> None:
    gone.clear()
    call = proxy.endless(None)
    assert await anext(call) == Reply(word="first")
    with pytest.raises(HandlerError, match=r"Answers\.endless does not fit its annotation: .* word: Field required"):
        await anext(call)
    await asyncio.wait_for(gone.wait(), DEADLINE_S)
    assert [item async for item in call] == []


# Interfaces and base classes.


class Interface:
    async def generate(self, request: object) -> Reply:
        raise NotImplementedError


@service
class Untyped(Interface):
    @dynamo_endpoint()
    async def generate(self, request):  # type: ignore[no-untyped-def]
        return request


@service
class Typed(Interface):
    @dynamo_endpoint()
    async def generate(self, request: object) -> Special:
        return Special(word="a", more=1)


class Special(Reply):
    more: int


@pytest.mark.parametrize(("concrete", "answer"), [(Untyped, A), (Typed, Special(word="a", more=1))])
async def test_an_endpoint_without_annotation_answers_as_what_it_overrides(
    world: World, concrete: type, answer: Reply
) -> None:
    await world.run(concrete)
    proxy = ServiceProxy(service_of(concrete), await world.join())
    received = await proxy.generate(OBJECT)
    assert received == answer
    assert type(received) is type(answer)
    await proxy.close()


# Older code names the kinds of `typing` with nothing in brackets, and JSON by an alias that names itself.

Json = typing.Union[str, int, None, list["Json"], dict[str, "Json"]]  # noqa: UP007
Models = typing.Union[Reply, list["Models"]]  # noqa: UP007


@pytest.mark.parametrize(
    "annotation",
    [
        *map(typing.__dict__.get, ("AsyncIterator", "AsyncGenerator", "Iterator", "Generator", "Awaitable")),
        *map(typing.__dict__.get, ("Coroutine", "Dict", "List", "Mapping", "Sequence", "Iterable")),
        Json, AsyncIterator[Json], list["Json"], "Json",
    ],
    ids=str,
)  # fmt: skip
def test_an_annotation_that_says_nothing_of_the_items_lets_them_pass(annotation: object) -> None:
    def method(self: object, request: object) -> object: ...

    method.__annotations__["return"] = annotation
    assert reader_of(answer_type(method)) is None


# Types that cannot work are refused before anything starts.


class Shape(BaseModel, ABC):
    @abstractmethod
    def area(self) -> int: ...


class NoData:
    pass


async def unresolved(self: object, request: str) -> Nowhere: ...  # type: ignore[name-defined]  # noqa: F821
async def unresolved_item(self: object, request: str) -> AsyncIterator[Nowhere]: ...  # type: ignore[name-defined, empty-body]  # noqa: F821
async def abstract(self: object, request: str) -> Shape: ...  # type: ignore[empty-body]
async def abstract_request(self: object, request: list[Shape] | None) -> None: ...
async def recursive(self: object, request: str) -> Models: ...  # type: ignore[empty-body]
async def no_data(self: object, request: str) -> NoData: ...  # type: ignore[empty-body]
async def no_data_request(self: object, request: NoData) -> None: ...


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (unresolved, "unresolved: the type 'Nowhere' that it returns is unknown at run time; define or import it"),
        (unresolved_item, "the type 'AsyncIterator[Nowhere]' that it returns is unknown at run time"),
        (abstract, "abstract: the type that it returns will not do: Shape is abstract, so nothing can be one"),
        (abstract_request, "abstract_request: the type of 'request' will not do: Shape is abstract"),
        (recursive, "that it returns will not do: Union[Reply, list[ForwardRef('Models')]] contains itself; write a"),
        (no_data, "no_data: the type that it returns will not do: NoData cannot be made of JSON; use a pydantic model"),
        (no_data_request, "no_data_request: the type of 'request' will not do: NoData cannot be made of JSON"),
    ],
)
def test_a_type_that_cannot_work_is_refused_before_the_start(function: Callable[..., object], message: str) -> None:
    @service
    class Odd:
        call = dynamo_endpoint()(function)

    with pytest.raises(ConfigError, match=re.escape(message)):
        check([service_of(Odd)])


# What a caller sees in a handler of its own.


@service
class Caller:
    answers = depends(Answers)

    @dynamo_endpoint()
    async def ask(self, request: str) -> str:
        reply = await self.answers.unary({"word": request})
        return reply.word.upper()


async def test_a_handler_reads_the_fields_of_an_answer(world: World) -> None:
    await world.run(Answers)
    await world.run(Caller)
    assert await world.call(Caller, "ask", "word") == ["WORD"]

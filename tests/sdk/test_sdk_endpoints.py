"""Requests and responses: what reaches a method, and what comes back."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Any, Literal, NoReturn

import pytest
from pydantic import BaseModel, Field
from tests.sdk.services import Request, Worker
from tests.sdk.world import World

from dynamo._core.errors import ConfigError
from dynamo.runtime import DynamoError, HandlerError, InvalidArgument
from dynamo.sdk import dynamo_endpoint, endpoint, service, service_of
from dynamo.sdk._graph import check


@pytest.mark.parametrize(
    "request_value", [Request(text="a b"), {"text": "a b"}, '{"text": "a b"}', {"text": "a b", "x": 1}]
)
async def test_a_model_is_made_of_objects_and_of_json_text(world: World, request_value: object) -> None:
    await world.run(Worker)
    assert await world.call(Worker, "stream", request_value) == [{"word": "a"}, {"word": "b"}]


@pytest.mark.parametrize(
    ("request_value", "message"),
    [
        (5, "Invalid request: 5"),
        ({"txt": "a"}, "Invalid request: 1 validation error for Request"),
        ("no json", "Invalid request: 1 validation error for Request"),
    ],
)
async def test_a_request_that_is_no_model_is_an_invalid_argument(
    world: World, request_value: object, message: str
) -> None:
    await world.run(Worker)
    with pytest.raises(DynamoError) as raised:
        await world.call(Worker, "stream", request_value)
    assert raised.value.code == "invalid_argument"
    assert str(raised.value).startswith(message)


async def test_json_text_that_is_yielded_stays_text(world: World) -> None:
    await world.run(Worker)
    assert await world.call(Worker, "text", {"text": "a"}) == ['{"word":"a"}']


@pytest.mark.parametrize(
    ("endpoint", "items"),
    [("unary", [{"word": "a b"}]), ("sync", ["A B"]), ("sync_stream", ["a", "b"]), ("nothing", ["asked for nothing"])],
)
async def test_every_kind_of_method_is_a_stream_of_items(world: World, endpoint: str, items: list[object]) -> None:
    await world.run(Worker)
    assert await world.call(Worker, endpoint, {"text": "a b"}) == items


@pytest.mark.parametrize("value", [{"a": [1, None]}, "text", '{"text": "stays text"}', 5, None, [True]])
async def test_without_a_model_a_request_passes_untouched(world: World, value: object) -> None:
    await world.run(Worker)
    assert await world.call(Worker, "chat/completions", value) == [value]
    assert await world.call(Worker, "plain", value) == [value]


async def test_an_exception_arrives_after_the_items_before_it(world: World) -> None:
    await world.run(Worker)
    client = await world.client(Worker, "fails_after")
    items = []
    with pytest.raises(HandlerError) as raised:
        async for item in await client.generate(3, annotated=False):
            items.append(item)
    assert items == [0, 1, 2]
    assert str(raised.value) == "LookupError: no more numbers"


# What pydantic can validate is validated, and what JSON itself has passes as it came.


class Level(StrEnum):
    HIGH = "high"


class Strict(BaseModel, strict=True, extra="forbid"):
    level: Level
    day: date = Field(alias="the-day")


@dataclass
class Point:
    x: int


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


@service
class Typed:
    @dynamo_endpoint()
    async def optional(self, request: Request | None = None) -> str:
        return repr(request)

    @dynamo_endpoint()
    async def union(self, request: Cat | Dog) -> str:
        return repr(request)

    @dynamo_endpoint()
    async def many(self, request: list[Request]) -> str:
        return repr(request)

    @dynamo_endpoint()
    async def by_name(self, request: dict[str, Point]) -> str:
        return repr(request)

    @dynamo_endpoint()
    async def strict(self, request: Strict) -> str:
        return repr(request)

    @dynamo_endpoint()
    async def level(self, request: Level) -> str:
        return repr(request)

    @dynamo_endpoint()
    async def model_or_text(self, request: Request | str) -> str:
        return repr(request)

    @dynamo_endpoint()
    async def numbers(self, request: dict[str, int]) -> str:
        return repr(request)

    @dynamo_endpoint()
    async def objects(self, request: dict[str, Any]) -> str:
        return repr(request)

    @dynamo_endpoint()
    async def model_or_number(self, request: Request | int) -> str:
        return repr(request)

    @dynamo_endpoint()
    async def any_kind_of_list(self, request: Iterable[Request]) -> str:
        return repr(request)

    @dynamo_endpoint()
    async def never(self, request: str) -> NoReturn:
        raise LookupError(request)

    @dynamo_endpoint()
    async def with_context(self, request: Request, ctx: object = None) -> str:
        return type(ctx).__name__


@pytest.mark.parametrize(
    ("endpoint", "sent", "seen"),
    [
        ("optional", None, "None"),
        ("optional", "null", "None"),
        ("optional", {"text": "a"}, "Request(text='a')"),
        ("optional", '{"text": "a"}', "Request(text='a')"),
        ("union", {"kind": "dog"}, "Dog(kind='dog')"),
        ("union", '{"kind": "cat"}', "Cat(kind='cat')"),
        ("many", [{"text": "a"}], "[Request(text='a')]"),
        ("by_name", {"a": {"x": 1}}, "{'a': Point(x=1)}"),
        ("by_name", '{"a": {"x": 1}}', "{'a': Point(x=1)}"),
        ("strict", {"level": "high", "the-day": "2025-01-02"}, "Strict(level=<Level.HIGH: 'high'>, day=datetime.d"),
        ("strict", {"level": "high", "day": "2025-01-02"}, "Strict(level=<Level.HIGH: 'high'>, day=datetime.d"),
        ("level", "high", "<Level.HIGH: 'high'>"),
        ("model_or_text", '{"text": "a"}', """'{"text": "a"}'"""),
        ("model_or_text", {"text": "a"}, "Request(text='a')"),
        ("model_or_number", '{"text": "a"}', "Request(text='a')"),
        ("model_or_number", 5, "5"),
        ("any_kind_of_list", [{"text": "a"}], "[Request(text='a')]"),
        ("numbers", {"a": 1}, "{'a': 1}"),
        ("objects", '{"stays": "text"}', """'{"stays": "text"}'"""),
        ("with_context", {"text": "a"}, "Context"),
    ],
)
async def test_a_request_becomes_what_the_annotation_says(world: World, endpoint: str, sent: object, seen: str) -> None:
    await world.run(Typed)
    [answer] = await world.call(Typed, endpoint, sent)
    assert str(answer).startswith(seen)


@pytest.mark.parametrize(
    ("endpoint", "sent", "message"),
    [
        ("optional", {"txt": "a"}, "1 validation error for Request | None: text: Field required"),
        ("union", {"kind": "cow"}, "2 validation errors for Cat | Dog: Cat.kind: Input should be 'cat'; Dog.kind: "),
        ("many", [{"text": 1}, {}], "2 validation errors for list[Request]: 0.text: Input should be a valid string; 1"),
        ("many", [{}] * 7, "7 validation errors for list[Request]: 0.text: Field required; 1.text: Field required; 2."),
        ("level", "low", "1 validation error for Level: Input should be 'high'"),
        ("numbers", {"a": "b"}, "1 validation error for dict[str, int]: a: Input should be a valid integer"),
        ("strict", {"level": "high", "the-day": "2025-01-02", "x": 1}, "1 validation error for Strict: x: Extra"),
    ],
)
async def test_a_request_that_does_not_fit_is_refused_in_one_line(
    world: World, endpoint: str, sent: object, message: str
) -> None:
    await world.run(Typed)
    with pytest.raises(InvalidArgument) as raised:
        await world.call(Typed, endpoint, sent)
    assert raised.value.message.startswith(f"Invalid request: {message}")
    assert "\n" not in raised.value.message
    assert len(raised.value.message) < 1000


async def test_a_refused_request_is_shown_shortened(world: World) -> None:
    await world.run(Worker)
    with pytest.raises(InvalidArgument) as raised:
        await world.call(Worker, "stream", ["x\n" * 100_000])
    assert len(raised.value.message) < 600


# What can be an endpoint, and what it can be called.


def test_an_endpoint_is_a_plain_method() -> None:
    class Under:
        @staticmethod
        @dynamo_endpoint
        async def call(request: object) -> None: ...

    class Above:
        @dynamo_endpoint
        @staticmethod
        async def call(request: object) -> None: ...

    with pytest.raises(TypeError, match=r"Under\.call: an endpoint is a plain method, not a staticmethod"):
        service(Under)
    with pytest.raises(TypeError, match=r"Above\.call: an endpoint is a plain method, not a staticmethod"):
        service(Above)


def under(decorator: Callable[..., object]) -> type:
    class Odd:
        @decorator
        @dynamo_endpoint
        async def call(self, request: object) -> None: ...

    return Odd


class CallableObject:
    def __call__(self, request: object) -> None: ...


def value_of(value: Any) -> type:
    class Odd:
        call = dynamo_endpoint()(value)

    return Odd


async def method(self: object, request: object) -> None: ...


@pytest.mark.parametrize(
    ("odd", "kind"),
    [
        (under(classmethod), "classmethod"),
        (under(property), "property"),
        (under(functools.cached_property), "cached_property"),
        (under(functools.partialmethod), "partialmethod"),
        (under(functools.partial), "partial"),
        (value_of(functools.partial(method, request=1)), "partial"),
        (value_of(CallableObject()), "CallableObject"),
        (value_of(CallableObject), "type"),
    ],
)
def test_what_is_no_method_is_refused_and_named(odd: type, kind: str) -> None:
    with pytest.raises(TypeError, match=rf"Odd\.call: an endpoint is a plain method, not a {kind}"):
        service(odd)


@pytest.mark.parametrize("value", [5, property(lambda self: None), len, [].append])
def test_what_cannot_be_marked_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="an endpoint must be a method, got"):
        dynamo_endpoint()(value)


async def test_a_lambda_and_a_wrapped_method_can_be_endpoints(world: World) -> None:
    def loud(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        async def wrapper(self: object, request: Request) -> str:
            return str(await function(self, request)).upper()

        return wrapper

    @service
    class Fine:
        short = dynamo_endpoint()(lambda self, request: [request])

        @loud
        @dynamo_endpoint()
        async def wrapped(self, request: Request) -> str:
            return request.text

    await world.run(service_of(Fine).inner)
    assert await world.call(Fine, "short", 1) == [[1]]
    assert await world.call(Fine, "wrapped", {"text": "a"}) == ["A"]


@pytest.mark.parametrize("name", ["/", "", ".", "..", "a..b", " a", "a b", "é", "a\n", "x" * 257, "-a"])
def test_a_name_that_is_no_address_is_refused(name: str) -> None:
    class Odd:
        @dynamo_endpoint(name=name)
        async def call(self, request: object) -> None: ...

    with pytest.raises(TypeError, match=r"Odd\.call: .* is not a valid endpoint name: use letters, digits and"):
        service(Odd)


@pytest.mark.parametrize("name", ["v1/chat/completions", "a.b.c", "x" * 200, "a/" * 99 + "a", "0", "a:b-c"])
async def test_a_name_may_be_long_and_have_separators(world: World, name: str) -> None:
    @service
    class Named:
        @dynamo_endpoint(name=name)
        async def call(self, request: object) -> object:
            return request

    await world.run(Named)
    assert await world.call(Named, name, 1) == [1]


def test_two_endpoints_that_a_caller_could_confuse_are_refused() -> None:
    class Confused:
        @dynamo_endpoint("chat")
        async def first(self, request: object) -> None: ...

        @dynamo_endpoint("other")
        async def chat(self, request: object) -> None: ...

    with pytest.raises(TypeError, match=r"Confused\.chat is the endpoint 'other', and 'chat' is first: .*; rename one"):
        service(Confused)


def test_transports_are_named_and_not_empty() -> None:
    with pytest.raises(ValueError, match="transports is empty"):
        endpoint(transports=[])
    with pytest.raises(ValueError, match="'grpc' is not a valid DynamoTransport"):
        endpoint(transports="grpc")  # type: ignore[arg-type]


async def without_self() -> None: ...


async def malformed(self: object, request: "1 +") -> None: ...  # type: ignore[valid-type]  # noqa: F722


async def missing(self: object, request: pytest.nothing) -> None: ...  # type: ignore[name-defined]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (without_self, "without_self cannot serve an endpoint: it must take (self, request)"),
        (malformed, "is unknown at run time; define or import it at the top of the module (Forward reference"),
        (missing, "is unknown at run time; define or import it at the top of the module (module 'pytest' has no"),
    ],
)
def test_a_method_that_cannot_serve_says_why(function: Callable[..., object], message: str) -> None:
    @service
    class Odd:
        call = dynamo_endpoint()(function)

    with pytest.raises(ConfigError, match=re.escape(message)):
        check([service_of(Odd)])

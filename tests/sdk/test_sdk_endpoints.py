"""Requests and responses: what reaches a method, and what comes back."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from tests.sdk.services import Request, Worker
from tests.sdk.world import World

from dynamo._core.errors import ConfigError
from dynamo.runtime import DynamoError, HandlerError
from dynamo.sdk import dynamo_endpoint, service, service_of
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

"""Interfaces: what a service must have to implement one, and how a graph says which service that is."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import Generic, TypeVar, assert_type

import pytest
from pydantic import BaseModel

from dynamo.runtime import DynamoError
from dynamo.sdk import (
    AbstractDynamoService,
    AbstractService,
    Service,
    abstract_dynamo_endpoint,
    abstract_endpoint,
    api,
    depends,
    dynamo_endpoint,
    endpoint,
    service,
    service_of,
)
from dynamo.sdk._graph import check, outline, reachable

Item = TypeVar("Item")


class Text(BaseModel):
    text: str
    limit: int = 10


class Prompt(BaseModel):
    text: str


class Priced(BaseModel):
    text: str
    price: float


class Completer(AbstractService):
    @abstract_endpoint
    async def complete(self, request: Text) -> str:
        raise NotImplementedError

    @abstract_endpoint()
    def stream(self, request: Text) -> AsyncIterator[str]:
        raise NotImplementedError

    @abstract_endpoint("chat/completions")
    async def chat(self, request: Text) -> str:
        raise NotImplementedError


class Body:
    """What every implementation here has in common: a mixin that brings the endpoints."""

    @endpoint
    async def complete(self, request: Text) -> str:
        return request.text

    @dynamo_endpoint()
    async def stream(self, request: Text) -> AsyncIterator[str]:
        yield request.text

    @endpoint("chat/completions")
    async def chat(self, request: Text) -> str:
        return request.text


@service
class Local(Body, Completer):
    """Its implementations are inherited."""


@service
class Remote(Body, Completer): ...


def caller(name: str = "Caller") -> Service[object]:
    class Ask:
        completer = depends(Completer)

        @endpoint
        async def ask(self, request: Text) -> str:
            return await self.completer.complete(request)

    return service(type(name, (Ask,), {}))


def test_inherited_implementations_count() -> None:
    assert service_of(Local).name == "Local"
    assert list(service_of(Local).endpoints) == ["complete", "stream", "chat/completions"]


def test_a_missing_implementation_is_named() -> None:
    with pytest.raises(TypeError) as raised:
        service(type("Partial", (Completer,), {"complete": Body.complete}))
    assert str(raised.value) == ("`Partial` violates Dynamo interface — missing implementation(s): stream, chat")


def test_everything_that_is_wrong_is_said_at_once() -> None:
    class Three(AbstractService):
        @abstract_endpoint
        async def foo(self, request: Text) -> str:
            raise NotImplementedError

        @abstract_endpoint
        async def bar(self, request: Text) -> str:
            raise NotImplementedError

        @abstract_endpoint
        async def baz(self, request: Text) -> str:
            raise NotImplementedError

    async def foo(self: object, request: Text) -> str:
        return ""

    with pytest.raises(TypeError) as raised:
        service(type("Cls", (Three,), {"foo": foo, "bar": 5}))
    assert str(raised.value) == (
        "`Cls` violates Dynamo interface — missing implementation(s): baz; "
        "method(s) not decorated with @endpoint: foo; bar must be callable, got int"
    )


def test_an_implementation_has_the_name_of_the_interface() -> None:
    class Renamed(Body, Completer):
        @endpoint
        async def chat(self, request: Text) -> str:
            return request.text

    with pytest.raises(TypeError, match=r"chat must be the endpoint 'chat/completions', got 'chat'"):
        service(Renamed)


def test_an_implementation_can_be_called_by_services() -> None:
    async def complete(self: object, request: Text) -> str:
        return ""

    with pytest.raises(TypeError, match="complete must be callable by other services"):
        service(type("Web", (Body, Completer), {"complete": api(complete)}))


def test_an_implementation_that_stands_behind_the_interface_is_named() -> None:
    with pytest.raises(TypeError, match=r"missing implementation\(s\): complete \(name Body before Completer among"):
        service(type("Hidden", (Completer, Body), {}))


def test_an_interface_may_be_generic() -> None:
    class Box(AbstractService, Generic[Item]):
        @abstract_endpoint
        async def put(self, request: str) -> Item:
            raise NotImplementedError

    class IntBox(Box[int]):
        @endpoint
        async def put(self, request: str) -> int:
            return 1

    class Ask:
        box = depends(Box[int])

    ask = service(Ask)
    assert ask.edges() == {"box": service_of(Box)}
    assert ask.link(service(IntBox)).name == "IntBox"


def test_an_interface_may_be_an_abstract_base_class() -> None:
    class Shape(AbstractService, ABC):
        @abstract_endpoint
        @abstractmethod
        async def area(self, request: str) -> float:
            raise NotImplementedError

    class Square(Shape):
        @endpoint
        async def area(self, request: str) -> float:
            return 4.0

    with pytest.raises(TypeError, match="abstract"):
        Shape()  # type: ignore[abstract]
    assert isinstance(service(Square)(), Shape)


def test_an_interface_that_derives_from_nothing_says_what_to_derive_from() -> None:
    class Loose:
        @abstract_endpoint
        async def go(self, request: str) -> str:
            raise NotImplementedError

    with pytest.raises(TypeError, match="got Loose; derive it from AbstractService to make it an interface"):
        depends(Loose)
    with pytest.raises(TypeError, match=r"`Loose` violates Dynamo interface — missing implementation\(s\): go"):
        service(Loose)


@pytest.mark.parametrize("thing", [5, len, property(len)])
def test_only_a_method_is_an_abstract_endpoint(thing: object) -> None:
    with pytest.raises(TypeError, match="an abstract endpoint must be a method"):
        abstract_endpoint()(thing)  # type: ignore[type-var]


def test_an_interface_cannot_be_instantiated() -> None:
    with pytest.raises(TypeError, match=r"Completer .*complete, stream, chat/completions .*link a service .*subclass"):
        Completer()


def test_an_implementation_can_be_built_and_shows_its_constructor() -> None:
    class Sized(Body, Completer):
        def __init__(self, size: int = 1) -> None:
            self.size = size

    assert Sized(3).size == 3
    assert list(inspect.signature(Sized).parameters) == ["size"]


def test_an_interface_is_not_decorated() -> None:
    with pytest.raises(TypeError, match="`Completer` violates Dynamo interface"):
        service(Completer)


def test_the_older_names_mean_the_same() -> None:
    assert AbstractDynamoService is AbstractService
    assert abstract_dynamo_endpoint is abstract_endpoint


def test_dependencies_on_an_interface_share_one_service() -> None:
    one, two = caller("One"), caller("Two")
    assert one.edges()["completer"] is two.edges()["completer"] is service_of(Completer)
    assert [spec.name for spec in service_of(Completer).plane_endpoints] == ["complete", "stream", "chat/completions"]


def test_a_dependency_on_an_interface_is_typed() -> None:
    class Typed:
        completer = depends(Completer)

        async def ask(self) -> None:
            assert_type(self.completer, Completer)
            assert_type(await self.completer.complete(Text(text="")), str)
            async for item in self.completer.stream(Text(text="")):
                assert_type(item, str)

    assert Typed.__name__ == "Typed"


def test_a_class_without_abstract_endpoints_is_no_interface() -> None:
    class Marker(AbstractService): ...

    with pytest.raises(TypeError, match=r"depends\(\) expects a class decorated with @service\(\), got Marker"):
        depends(Marker)


def test_an_unlinked_interface_is_named_with_what_could_be_linked() -> None:
    with pytest.raises(DynamoError) as raised:
        outline(caller())
    message = str(raised.value)
    assert message.startswith(
        "Service Completer is not servable: it is an interface that Caller.completer needs; link a concrete service: "
    )
    assert "Caller.link(Local)" in message
    assert " or Caller.link(Remote)" in message


def test_an_interface_that_nobody_implements_is_named() -> None:
    class Lonely(AbstractService):
        @abstract_endpoint
        async def go(self, request: str) -> str:
            raise NotImplementedError

    class Needs:
        lonely = depends(Lonely)

    with pytest.raises(DynamoError, match=r"it is an interface that Needs.lonely needs; .*: Needs.link\(...\)$"):
        outline(service(type("Needs", (Needs,), {"__init__": lambda self: None})))
    with pytest.raises(DynamoError, match="Lonely is not servable: it is an interface; serve a service"):
        outline(service_of(Lonely))


def test_a_linked_service_takes_the_place_of_the_interface() -> None:
    top = caller()
    assert top.link(Local) is service_of(Local)
    assert [entry.name for entry in outline(top).services] == ["Caller", "Local"]


def test_callers_of_one_interface_may_be_linked_to_different_services() -> None:
    one, two = caller("One"), caller("Two")
    one.link(Local)
    two.link(Remote)
    assert (one.edges()["completer"].name, two.edges()["completer"].name) == ("Local", "Remote")


def test_the_last_link_of_a_dependency_counts() -> None:
    top = caller()
    top.link(Local)
    top.link(Remote)
    assert [service.name for service in reachable(top)] == ["Caller", "Remote"]


def test_interfaces_chain() -> None:
    class Store(AbstractService):
        @abstract_endpoint
        async def get(self, request: str) -> str:
            raise NotImplementedError

    class Cached(Body, Completer):
        store = depends(Store)

    class Memory(Store):
        @endpoint
        async def get(self, request: str) -> str:
            return ""

    cached: Service[object] = service(type("CachedService", (Cached,), {}))
    memory: Service[object] = service(type("MemoryService", (Memory,), {}))
    top = caller()
    top.link(cached).link(memory)
    assert [entry.name for entry in outline(top).services] == ["Caller", "CachedService", "MemoryService"]


def test_a_circle_through_interfaces_is_named() -> None:
    class Again(Body, Completer):
        completer = depends(Completer)

    again: Service[object] = service(type("AgainService", (Again,), {}))
    again.link(again)
    with pytest.raises(DynamoError, match="in a circle: AgainService -> AgainService"):
        outline(again)


def implementation(name: str, model: type[BaseModel]) -> Service[object]:
    async def complete(self: object, request: BaseModel) -> str:
        return ""

    complete.__annotations__["request"] = model
    complete.__qualname__ = f"{name}.complete"
    return service(type(name, (Body, Completer), {"complete": endpoint(complete)}))


@pytest.mark.parametrize("model", [Text, Prompt, BaseModel])
def test_an_implementation_may_take_less_than_the_interface_promises(model: type[BaseModel]) -> None:
    top = caller()
    top.link(implementation("Fitting", model))
    check(reachable(top))


def test_an_implementation_that_needs_more_than_the_interface_promises_is_named() -> None:
    top = caller()
    top.link(implementation("Greedy", Priced))
    with pytest.raises(DynamoError) as raised:
        check(reachable(top))
    assert str(raised.value).endswith(
        "Greedy.complete cannot stand for Completer.complete, which Caller.completer needs: "
        "it takes Priced, whose field 'price' Text does not have"
    )
    assert "test_sdk_interface.py:" in str(raised.value)


def test_a_service_that_derives_from_an_implementation_keeps_its_endpoints() -> None:
    class Silent(service_of(Local).inner):  # type: ignore[misc]
        async def complete(self, request: Text) -> str:
            return ""

    with pytest.raises(TypeError, match="not decorated with @endpoint: complete"):
        service(Silent)


def test_a_service_that_is_linked_in_place_of_its_base_has_its_endpoints() -> None:
    class Worker:
        @endpoint
        async def go(self, request: str) -> str:
            return request

    base: Service[object] = service(type("Base", (Worker,), {}))
    lesser: Service[object] = service(type("Lesser", (base.inner,), {"go": None, "other": Body.complete}))
    top: Service[object] = service(type("Top", (Worker,), {"base": depends(base)}))
    top.link(lesser)
    with pytest.raises(DynamoError, match=r"Top.base is linked to Lesser, which lacks the endpoint 'go' of Base"):
        check(reachable(top))

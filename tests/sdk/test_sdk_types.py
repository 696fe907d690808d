"""What a type checker sees: `assert_type` is checked by mypy, which runs over the tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import assert_type

from tests.sdk.services import Reply, Request, Worker

from dynamo.sdk import (
    AbstractService,
    Service,
    abstract_endpoint,
    async_on_start,
    depends,
    dynamo_endpoint,
    service,
    service_of,
)
from dynamo.sdk._depends import Dependency
from dynamo.sdk.lib.service import LinkedServices


class Engine(AbstractService):
    @abstract_endpoint
    async def run(self, request: Request) -> Reply:
        raise NotImplementedError

    @abstract_endpoint("tokens")
    def stream(self, request: Request) -> AsyncIterator[Reply]:
        raise NotImplementedError


@service(dynamo={"namespace": "types"}, resources={"gpu": 1}, workers="cpu_count")
class Caller:
    worker = depends(Worker)
    engine = depends(Engine)

    @async_on_start
    async def start(self) -> int:
        return 1

    @dynamo_endpoint()
    async def ask(self, request: Request) -> Reply:
        assert_type(self.worker, Worker)
        assert_type(await self.worker.unary(request), Reply)
        async for reply in self.worker.stream(request):
            assert_type(reply, Reply)
        self.worker.unary("text")  # type: ignore[arg-type, unused-coroutine]
        return await self.worker.unary(request)

    @dynamo_endpoint()
    async def run(self, request: Request) -> Reply:
        assert_type(self.engine, Engine)
        async for reply in self.engine.stream(request):
            assert_type(reply, Reply)
        self.engine.walk(request)  # type: ignore[attr-defined]
        return await self.engine.run(request)


def test_a_decorated_class_and_its_methods_keep_their_types() -> None:
    assert_type(service_of(Caller), Service[Caller])
    assert_type(Caller.worker, Dependency[Worker])
    assert_type(Caller.engine, Dependency[Engine])
    assert_type(service_of(Caller).inner, type[Caller])
    assert {dependency.on for dependency in service_of(Caller).dependencies.values()} == {
        service_of(Worker),
        service_of(Engine),
    }


def test_a_decorated_class_is_a_type() -> None:
    def name(worker: Worker | None) -> str:
        return type(worker).__name__

    worker: Worker = Worker()
    assert name(worker) == "Worker"
    assert isinstance(worker, Worker)


def test_links_of_services_have_types() -> None:
    @service
    class Middle:
        worker = depends(Worker)

    @service
    class Top:
        middle = depends(Middle)

    top = service_of(Top)
    assert_type(top.link(service_of(Middle)), Service[Middle])
    assert_type(top.link(Middle), Service[Middle])
    assert_type(top.link(Middle).link(Worker), Service[Worker])
    assert_type(LinkedServices.register_edge(top, service_of(Middle)), Service[Middle])
    assert top.link(Middle).link(Worker) is service_of(Worker)


def test_a_checker_that_takes_the_name_for_the_class_sees_no_link_on_it() -> None:
    @service
    class Top:
        caller = depends(Caller)

    Top.link(Caller)  # type: ignore[attr-defined]
    assert service_of(Top).edges() == {"caller": service_of(Caller)}


def test_the_keywords_of_a_decorator_have_types() -> None:
    def wrong() -> None:
        service(workers="many")  # type: ignore[call-overload]
        service(resources={"gpus": 1})  # type: ignore[call-overload]
        service(worker=1)  # type: ignore[call-overload]
        depends(5)  # type: ignore[call-overload]
        depends(Worker, url="x")  # type: ignore[call-overload]

    assert callable(wrong)

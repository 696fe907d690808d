"""What a type checker sees: `assert_type` is checked by mypy, which runs over the tests."""

from __future__ import annotations

from typing import assert_type

from tests.sdk.services import Reply, Request, Worker

from dynamo.sdk import Service, async_on_start, depends, dynamo_endpoint, service, service_of
from dynamo.sdk._depends import Dependency


@service(dynamo={"namespace": "types"}, resources={"gpu": 1})
class Caller:
    worker = depends(Worker)

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


def test_a_decorated_class_and_its_methods_keep_their_types() -> None:
    assert_type(service_of(Caller), Service[Caller])
    assert_type(Caller.worker, Dependency[Worker])
    assert_type(service_of(Caller).inner, type[Caller])
    assert service_of(Caller).edges() == {"worker": service_of(Worker)}

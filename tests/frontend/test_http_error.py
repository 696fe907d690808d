"""An `HttpError` of a handler reaches the client with its status, however many processes are between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import httpx
import msgspec
import pytest
from tests.frontend.scene import DEADLINE_S

from dynamo._core.discovery.memory import MemoryDiscovery
from dynamo._core.errors import HandlerError
from dynamo.frontend._config import FrontendConfig
from dynamo.frontend._errors import body_of
from dynamo.frontend._serving import FrontendServer
from dynamo.llm import HttpError
from dynamo.llm._registration import PUBLIC_NAMESPACE, Kind, Registration
from dynamo.runtime import DistributedRuntime

BODY = {"model": "parrot", "messages": [{"role": "user", "content": "hi"}]}


async def refuse(request: dict[str, object]) -> AsyncGenerator[dict[str, object], None]:
    raise HttpError(418, "I am a teapot")
    yield {}


@asynccontextmanager
async def runtimes() -> AsyncIterator[tuple[DistributedRuntime, DistributedRuntime]]:
    """Two that call each other through sockets, as two processes do."""
    discovery = MemoryDiscovery()
    async with (
        asyncio.timeout(DEADLINE_S),
        DistributedRuntime(discovery=discovery, request_plane="tcp:") as one,
        DistributedRuntime(discovery=discovery, request_plane="tcp:") as other,
    ):
        yield one, other


async def test_a_handler_behind_an_endpoint_chooses_the_status_of_the_answer() -> None:
    async with runtimes() as (worker, front):
        endpoint = worker.endpoint("zoo.birds.generate")
        await endpoint.serve(refuse)
        registration = Registration("parrot", Kind.Chat, endpoint.id)
        await worker.discovery.put(registration.key(PUBLIC_NAMESPACE), registration.to_json())
        server = FrontendServer(FrontendConfig(http_port=0))
        async with httpx.AsyncClient(base_url=await server.start(front)) as client:
            await server.wait_ready()
            response = await client.post("/v1/chat/completions", json=BODY)
        await server.stop()
    assert response.status_code == 418
    assert response.json()["error"] == {
        "message": "I am a teapot", "type": "invalid_request_error", "param": None, "code": "http_error"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("status", "kind"), [(499, "invalid_request_error"), (501, "server_error"), (599, "server_error")]
)
def test_a_status_from_500_on_is_no_fault_of_the_client(status: int, kind: str) -> None:
    assert msgspec.json.decode(body_of(HttpError(status, "no")))["error"]["type"] == kind


async def test_a_caller_that_is_no_frontend_sees_the_error_of_a_handler() -> None:
    async with runtimes() as (worker, other):
        await worker.endpoint("zoo.birds.generate").serve(refuse)
        client = await other.endpoint("zoo.birds.generate").client()
        await client.wait_for_instances()
        with pytest.raises(HandlerError, match=r"^HttpError: I am a teapot$"):
            await (await client.generate(BODY)).batch()

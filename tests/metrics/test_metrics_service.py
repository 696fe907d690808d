"""One line in a service is enough: what it counts is on its `/metrics`, and says where it was counted."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import httpx
import pytest
from tests.metrics.reading import Samples, samples

from dynamo.frontend._config import FrontendConfig
from dynamo.frontend._serving import FrontendServer
from dynamo.metrics import counter
from dynamo.runtime import DistributedRuntime
from dynamo.sdk import api, async_on_start, dynamo_endpoint, service, service_of
from dynamo.sdk._runner import ServiceRunner

DEADLINE_S = 60.0
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
IN_SERVICE = ("dynamo_component=Orchard", "dynamo_namespace=shop")

apples = counter("test_apples", "Apples that were counted", ("at",))


@service(dynamo={"namespace": "shop"})
class Orchard:
    def __init__(self) -> None:
        apples.labels("constructor").inc()

    @async_on_start
    async def start(self) -> None:
        apples.labels("hook").inc()
        thread = threading.Thread(target=apples.labels("thread").inc)
        thread.start()
        thread.join()

    @dynamo_endpoint()
    async def sell(self, request: str) -> AsyncIterator[str]:
        apples.labels("plane").inc()
        yield "sold"

    @api
    async def buy(self, kind: str) -> str:
        apples.labels("http").inc()
        return kind


@pytest.fixture
async def runtime() -> AsyncIterator[DistributedRuntime]:
    async with (
        asyncio.timeout(DEADLINE_S),
        DistributedRuntime(discovery="memory:", request_plane="inproc:", event_plane="inproc:") as runtime,
    ):
        yield runtime


def page(runtime: DistributedRuntime) -> Samples:
    return samples(runtime.exposition.prepare()(OPENMETRICS)[0].decode())


def where(runtime: DistributedRuntime, at: str) -> list[str]:
    """The labels of what was counted there."""
    found = [labels.split(",") for name, labels in page(runtime) if name == "test_apples_total"]
    (labels,) = (set(labels) - {f"at={at}"} for labels in found if f"at={at}" in labels)
    return sorted(labels)


async def test_what_a_service_counts_says_where(runtime: DistributedRuntime) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    async with AsyncExitStack() as stack:
        runner = ServiceRunner(service_of(Orchard), runtime, http_socket=listener)
        stack.push_async_callback(runner.stop)
        await runner.start()
        client = await runtime.endpoint("shop.Orchard.sell").client()
        assert [item async for item in await client.generate("red", annotated=False)] == ["sold"]
        async with httpx.AsyncClient(timeout=DEADLINE_S) as http:
            assert (await http.post(f"http://127.0.0.1:{port}/buy", params={"kind": "red"})).is_success
        for at in ("constructor", "hook", "thread"):
            assert where(runtime, at) == [*IN_SERVICE]
        assert where(runtime, "plane") == sorted([*IN_SERVICE, "dynamo_endpoint=sell"])
        assert where(runtime, "http") == sorted([*IN_SERVICE, "dynamo_endpoint=buy"])
    apples.labels("afterwards").inc()
    assert where(runtime, "afterwards") == []


async def test_a_frontend_shows_what_its_process_counts_too(runtime: DistributedRuntime) -> None:
    apples.labels("frontend").inc()
    server = FrontendServer(FrontendConfig(http_port=0, drain_s=0.0))
    url = await server.start(runtime)
    async with httpx.AsyncClient(timeout=DEADLINE_S) as http:
        response = await http.get(f"{url}/metrics", headers={"accept": OPENMETRICS})
    await server.stop()
    assert samples(response.text)["test_apples_total", "at=frontend"] == 1

"""The frontend as a service of a graph."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import httpx
import msgspec
import pytest
from tests.frontend.scene import CHAT
from tests.llm.scene import DEADLINE_S, ScriptedEngine, World, load_tokenizer, says_text

from dynamo._core.address import EndpointId
from dynamo._core.errors import DynamoError
from dynamo.frontend import Frontend
from dynamo.llm._model_card import ModelCard
from dynamo.sdk import Service, depends, dynamo_endpoint, service
from dynamo.sdk._runner import ServiceRunner

RUNNING: list[Frontend] = []


@service(dynamo={"namespace": "test"})
class Web(Frontend):
    """A frontend on a free port, which the test can find."""

    def __init__(self) -> None:
        super().__init__(http_port=0, drain_s=0.0)
        RUNNING.append(self)


async def test_a_graph_can_have_a_frontend(tiny_model: Path) -> None:
    world = World()
    engine = ScriptedEngine(says_text(await load_tokenizer(tiny_model), "hello"))
    async with world.worker(engine, tiny_model), world.runtime() as runtime:
        runner = ServiceRunner(cast("Service[object]", Web), runtime)
        await runner.start()
        [web] = RUNNING
        async with httpx.AsyncClient(base_url=web.url, timeout=DEADLINE_S) as client, asyncio.timeout(DEADLINE_S):
            while (await client.get("/health")).status_code != 200:  # noqa: ASYNC110
                await asyncio.sleep(0)
            answer = await client.post("/v1/chat/completions", json=CHAT)
        assert answer.json()["choices"][0]["message"]["content"] == "hello"
        await runner.stop()
        with pytest.raises(httpx.ConnectError):
            async with httpx.AsyncClient(base_url=web.url) as client:
                await client.get("/live")


@service(dynamo={"namespace": "test"})
class Backend:
    """A worker of the graph; whose model it serves is up to the test."""

    @dynamo_endpoint()
    async def generate(self, request: dict[str, object]) -> AsyncIterator[str]:
        yield "never asked"


@service(dynamo={"namespace": "test"})
class WebBeforeBackend(Frontend):
    backend = depends(Backend)

    def __init__(self) -> None:
        super().__init__(http_port=0, drain_s=0.0)


async def test_a_frontend_before_workers_is_ready_with_their_model_and_not_sooner(tiny_model: Path) -> None:
    world = World()
    engine = ScriptedEngine(says_text(await load_tokenizer(tiny_model), "hello"))
    async with world.runtime() as runtime, world.runtime() as below:
        backend = ServiceRunner(cast("Service[object]", Backend), below)
        await backend.start()
        web = ServiceRunner(cast("Service[object]", WebBeforeBackend), runtime)
        starting = asyncio.create_task(web.start())
        done, _ = await asyncio.wait([starting], timeout=0.3)
        assert not done  # everything it calls is there, but no model
        async with world.worker(engine, tiny_model), asyncio.timeout(DEADLINE_S):
            await starting
            await web.stop()
        await backend.stop()


async def test_a_frontend_whose_model_cannot_be_loaded_fails_and_says_why(tiny_model: Path) -> None:
    world = World()
    card = ModelCard.from_local_path(tiny_model, name="broken")
    card = msgspec.structs.replace(card, source_path="/nowhere")
    await world.discovery.put(EndpointId("test", "Backend", "generate").model_card_key(1), card.to_json())
    async with world.runtime() as runtime, world.runtime() as below:
        backend = ServiceRunner(cast("Service[object]", Backend), below)
        await backend.start()
        web = ServiceRunner(cast("Service[object]", WebBeforeBackend), runtime)
        with pytest.raises(DynamoError, match="/nowhere"):
            async with asyncio.timeout(DEADLINE_S):
                await web.start()
        await web.stop()
        await backend.stop()

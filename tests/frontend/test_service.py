"""The frontend as a service of a graph."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import httpx
import pytest
from tests.frontend.scene import CHAT
from tests.llm.scene import DEADLINE_S, ScriptedEngine, World, load_tokenizer, says_text

from dynamo.frontend import Frontend
from dynamo.sdk import Service, service
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

"""What the engines here say that they can do, and what becomes of a request for something else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import JsonValue
from tests.frontend.mocked import MODEL, mocked
from tests.llm.scene import World

from dynamo.echo import EchoEngine
from dynamo.frontend._config import FrontendConfig
from dynamo.frontend._serving import FrontendServer
from dynamo.llm import ModelConfig, register_llm
from dynamo.llm._register import serve_engine
from dynamo.llm._served_model import ServedModel

DEADLINE_S = 60.0
ALL: dict[str, dict[str, Any]] = {
    "logprobs": {"logprobs": 0},
    "seed": {"seed": 7},
    "penalties": {"frequency_penalty": 0.5},
    "cache_salt": {"cache_salt": "red"},
}
OF_ECHO = ("seed", "cache_salt")


@asynccontextmanager
async def echoing(model: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a frontend before an echo worker."""
    world = World()
    async with asyncio.timeout(DEADLINE_S), AsyncExitStack() as stack:
        worker = await stack.enter_async_context(world.runtime())
        endpoint, engine = worker.endpoint("test.worker.generate"), EchoEngine(max_context_length=256)
        stack.push_async_callback((await serve_engine(endpoint, engine)).close)
        stack.push_async_callback((await ServedModel.start(engine, endpoint, model, MODEL)).close)
        yield await stack.enter_async_context(frontend(world))


@asynccontextmanager
async def frontend(world: World) -> AsyncIterator[httpx.AsyncClient]:
    async with world.runtime() as runtime:
        server = FrontendServer(FrontendConfig(http_port=0, drain_s=0.0))
        url = await server.start(runtime)
        try:
            await server.wait_ready()
            async with httpx.AsyncClient(base_url=url, timeout=DEADLINE_S) as client:
                yield client
        finally:
            await server.stop()


@pytest.mark.parametrize("capability", ALL)
async def test_the_echo_worker_answers_or_the_request_is_refused_by_what_it_lacks(
    tiny_model: Path, capability: str
) -> None:
    body = {"model": MODEL, "prompt": [5, 6], "max_tokens": 2, **ALL[capability]}
    async with echoing(tiny_model) as client:
        answer = await client.post("/v1/completions", json=body)
    if capability in OF_ECHO:
        assert answer.status_code == 200
        return
    (param,) = ALL[capability]
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["param"], error["type"]) == ("capability_missing", param, "invalid_request_error")
    assert f"cannot do '{capability}'" in error["message"]


async def test_the_simulated_worker_can_be_asked_for_all_of_them(tiny_model: Path) -> None:
    async with mocked(tiny_model, workers=1) as scene:
        for fields in ALL.values():
            answer = await scene.ask([5, 6], **fields)
            assert answer.status_code == 200, answer.text
        assert (await scene.ask([5, 6], logprobs=0)).json()["choices"][0]["logprobs"]["token_logprobs"]


async def test_what_whoever_registered_a_model_says_of_it_is_in_the_list_of_models(tiny_model: Path) -> None:
    world = World()
    user_data: dict[str, JsonValue] = {"team": "red", "prices": [1, 2.5, None]}
    async with asyncio.timeout(DEADLINE_S), world.runtime() as worker:
        for name, said in (("plain", {}), ("told", user_data)):
            endpoint = worker.endpoint(f"test.{name}.generate")
            await serve_engine(endpoint, EchoEngine())
            await register_llm(endpoint, ModelConfig(path=tiny_model, name=name, user_data=said))
        async with frontend(world) as client:
            found: list[dict[str, object]] = []
            while len(found) < 2:
                found = (await client.get("/v1/models")).json()["data"]
            one = (await client.get("/v1/models/told")).json()
    assert "user_data" not in found[0]
    assert found[1]["user_data"] == one["user_data"] == user_data

"""The workers of one model must be alike: one that differs gets no requests, and is told why, and so are frontends."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.llm.scene import DEADLINE_S, MODEL, ScriptedEngine, World, load_tokenizer, never, says_text, until

from dynamo._core.address import MODEL_CARDS
from dynamo._core.context import Context
from dynamo._core.discovery import Lease
from dynamo._core.discovery.memory import MemoryDiscovery
from dynamo._core.errors import CannotConnect
from dynamo.llm._kv_router.config import RouterConfig, RouterMode
from dynamo.llm._model_card import ModelCard
from dynamo.llm._models import ModelManager
from dynamo.llm._openai import CompletionRequest, parse

COMPLETION = parse(CompletionRequest, {"model": MODEL, "prompt": "hi"})
MODES = [RouterConfig(), RouterConfig(RouterMode.Random), RouterConfig(RouterMode.KV)]


@asynccontextmanager
async def models_of(world: World, router: RouterConfig) -> AsyncIterator[ModelManager]:
    async with world.runtime() as runtime, ModelManager(runtime, router=router) as models:
        async with asyncio.timeout(DEADLINE_S):
            await models.wait_ready()
        yield models


def other_tokenizer(model: Path, folder: Path) -> Path:
    """A model that differs in its tokenizer, by a line at its end."""
    other = folder / "other"
    shutil.copytree(model, other)
    with (other / "tokenizer.json").open("a") as file:
        file.write("\n")
    return other


def said_by(caplog: pytest.LogCaptureFixture, module: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == f"dynamo.llm.{module}"]


@pytest.mark.parametrize("router", MODES, ids=lambda router: router.mode.value)
@pytest.mark.parametrize("what", ["block size", "tokenizer"])
async def test_a_worker_that_differs_gets_no_requests_and_both_logs_have_both_values(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, router: RouterConfig, what: str
) -> None:
    world = World()
    says = says_text(await load_tokenizer(tiny_model), "hi")
    usual, odd = ScriptedEngine(says), ScriptedEngine(says)
    if what == "block size":
        path, block_size = tiny_model, 32
        name, its, theirs = "KV cache block size", "32", "16"
    else:
        path, block_size = other_tokenizer(tiny_model, tmp_path), 16
        name = "checksum of tokenizer.json"
        its, theirs = (ModelCard.from_local_path(one).checksums["tokenizer.json"] for one in (path, tiny_model))
    async with world.worker(usual, tiny_model) as first, models_of(world, router) as models:
        async with world.worker(odd, path, kv_cache_block_size=block_size) as second:
            await until(lambda: any("is refused" in one for one in said_by(caplog, "_models")))
            for _ in range(4):
                await models.pipeline(MODEL).complete(COMPLETION, Context())
            assert (len(usual.requests), len(odd.requests)) == (4, 0)
            assert models.instances() == {MODEL: [f"test/worker/generate/{first.lease.id:x}"]}
        (refused,) = [one for one in said_by(caplog, "_models") if "is refused" in one]
        assert f"its {name} is {its}, and that of the workers that serve it now is {theirs}" in refused
        assert f"{second.lease.id:x}" in refused
        (told,) = said_by(caplog, "_register")
        assert f"send this one, {second.lease.id:x}, no requests: its {name} is {its}, and that of worker " in told
        assert f"worker {first.lease.id:x} is {theirs}. Start all alike" in told


async def test_workers_that_are_alike_or_serve_another_model_say_nothing(
    tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    async with (
        world.worker(ScriptedEngine(never), tiny_model),
        world.worker(ScriptedEngine(never), tiny_model),
        world.worker(ScriptedEngine(never), tiny_model, model="other", kv_cache_block_size=32),
        world.worker(ScriptedEngine(never), tiny_model, kv_cache_block_size=32, endpoint="test.other.generate"),
    ):
        assert said_by(caplog, "_register") == []


class Deaf(MemoryDiscovery):
    """A discovery that is away as soon as it has taken a card."""

    is_away = False

    async def put(self, key: str, value: bytes, lease: Lease | None = None) -> None:
        await super().put(key, value, lease)
        self.is_away = key.startswith(MODEL_CARDS)

    async def get_prefix(self, prefix: str) -> dict[str, bytes]:
        if self.is_away:
            raise CannotConnect("discovery is away")
        return await super().get_prefix(prefix)


async def test_a_worker_whose_card_is_there_is_registered_though_nobody_says_who_else_is(
    tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world, discovery = World(), Deaf()
    world.discovery = discovery
    async with world.worker(ScriptedEngine(never), tiny_model) as runtime:
        discovery.is_away = False
        assert len(await discovery.get_prefix(MODEL_CARDS)) == 1
        assert runtime.lease.id
    assert said_by(caplog, "_register") == [
        f"discovery does not say whether other workers of the model {MODEL!r} differ: discovery is away"
    ]

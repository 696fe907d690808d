"""The workers of one model must be alike: one that differs is refused, or waits, and is told why with both values."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from tests.llm.scene import DEADLINE_S, MODEL, ScriptedEngine, World, load_tokenizer, never, says_text, until

from dynamo._core.address import MODEL_CARDS
from dynamo._core.context import Context
from dynamo._core.discovery import Lease
from dynamo._core.discovery.memory import MemoryDiscovery
from dynamo._core.errors import CannotConnect, ConfigError
from dynamo.llm import ModelConfig, register_llm, unregister_llm
from dynamo.llm._agreement import SETTLED_S
from dynamo.llm._kv_router.config import RouterConfig, RouterMode
from dynamo.llm._model_card import ModelCard
from dynamo.llm._model_config import OnConflict
from dynamo.llm._models import ModelManager
from dynamo.llm._openai import CompletionRequest, parse
from dynamo.runtime import DistributedRuntime

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


async def cards(discovery: MemoryDiscovery) -> list[ModelCard]:
    return [ModelCard.from_json(value) for value in (await discovery.get_prefix(MODEL_CARDS)).values()]


@pytest.mark.parametrize("what", ["block size", "tokenizer", "context length", "router"])
async def test_a_worker_that_differs_is_refused_with_both_values_and_leaves_no_card(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    world, path = World(), other_tokenizer(tiny_model, tmp_path)
    checksums = [ModelCard.from_local_path(one).checksums["tokenizer.json"] for one in (path, tiny_model)]
    config, words = {
        "block size": (ModelConfig(path=tiny_model, name=MODEL, kv_cache_block_size=32), ("block size", 32, 16)),
        "tokenizer": (ModelConfig(path=path, name=MODEL), ("checksum of tokenizer.json", *checksums)),
        "context length": (ModelConfig(path=tiny_model, name=MODEL, context_length=7), ("context length", 7, 4096)),
        "router": (
            ModelConfig(path=tiny_model, name=MODEL, router_mode=RouterMode.KV),
            ("router", {"mode": "kv"}, "the frontend's own"),
        ),
    }[what]
    name, its, theirs = words
    async with world.worker(ScriptedEngine(never), tiny_model) as first, world.runtime() as runtime:
        endpoint = runtime.endpoint("test.worker.generate")
        with pytest.raises(ConfigError) as refused:
            await register_llm(endpoint, config)
        assert f"{name} is {its}, and that of worker {first.lease.id:x} is {theirs}. Start all" in str(refused.value)
        assert [card.kv_cache_block_size for card in await cards(world.discovery)] == [16]
        assert said_by(caplog, "_register") == []


@pytest.mark.parametrize("router", MODES, ids=lambda router: router.mode.value)
@pytest.mark.parametrize("what", ["block size", "tokenizer"])
async def test_a_worker_that_waits_gets_no_requests_and_both_logs_have_both_values(
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
        async with world.worker(odd, path, kv_cache_block_size=block_size, on_conflict="wait") as second:
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


async def test_a_worker_is_not_refused_for_the_sake_of_one_that_waits(tiny_model: Path) -> None:
    world = World()
    async with (
        world.worker(ScriptedEngine(never), tiny_model),
        world.worker(ScriptedEngine(never), tiny_model, kv_cache_block_size=32, on_conflict="wait"),
        world.worker(ScriptedEngine(never), tiny_model),
    ):
        stand = [(card.kv_cache_block_size, card.waits) for card in await cards(world.discovery)]
        assert sorted(stand) == [(16, False), (16, False), (32, True)]


async def test_those_that_have_waited_are_whom_others_must_be_like_once_they_alone_are_left(tiny_model: Path) -> None:
    world = World()
    async with AsyncExitStack() as first, AsyncExitStack() as later:
        await first.enter_async_context(world.worker(ScriptedEngine(never), tiny_model))
        await later.enter_async_context(
            world.worker(ScriptedEngine(never), tiny_model, kv_cache_block_size=32, on_conflict="wait")
        )
        await first.aclose()
        await later.enter_async_context(world.worker(ScriptedEngine(never), tiny_model, kv_cache_block_size=32))
        with pytest.raises(ConfigError, match="its KV cache block size is 16, and that of worker"):
            await later.enter_async_context(world.worker(ScriptedEngine(never), tiny_model))


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


class Slow(MemoryDiscovery):
    """A discovery whose answers take as many turns of the loop as chance says."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._rng = rng

    async def put(self, key: str, value: bytes, lease: Lease | None = None) -> None:
        await self._dawdle()
        await super().put(key, value, lease)
        await self._dawdle()

    async def get_prefix(self, prefix: str) -> dict[str, bytes]:
        await self._dawdle()
        found = await super().get_prefix(prefix)
        await self._dawdle()
        return found

    async def delete(self, key: str) -> None:
        await self._dawdle()
        await super().delete(key)

    async def _dawdle(self) -> None:
        for _ in range(self._rng.randrange(6)):
            await asyncio.sleep(0)


@pytest.mark.parametrize("seed", range(40))
async def test_of_workers_that_come_at_once_those_that_stand_are_alike(tiny_model: Path, seed: int) -> None:
    rng = random.Random(seed)
    world = World()
    world.discovery = discovery = Slow(rng)
    sizes = [rng.choice((16, 32, 64)) for _ in range(5)]
    refusals: list[tuple[int, str]] = []
    async with AsyncExitStack() as stack:
        runtimes = [await stack.enter_async_context(world.runtime()) for _ in sizes]

        async def register(runtime: DistributedRuntime, size: int) -> bool:
            for _ in range(rng.randrange(8)):
                await asyncio.sleep(0)
            try:
                await register_llm(runtime.endpoint("a.b.c"), ModelConfig(path=tiny_model, kv_cache_block_size=size))
            except ConfigError as error:
                refusals.append((size, str(error)))
                return False
            return True

        async with asyncio.timeout(DEADLINE_S):
            stood = await asyncio.gather(*map(register, runtimes, sizes))
        left = await cards(discovery)
        assert [card.is_settling for card in left] == [False] * sum(stood)
        assert {card.kv_cache_block_size for card in left} == {
            size for size, stands in zip(sizes, stood, strict=True) if stands
        }
        assert len({card.kv_cache_block_size for card in left}) == 1
        assert all(f"its KV cache block size is {size}, and that of worker " in said for size, said in refusals)


@pytest.mark.parametrize("seed", range(20))
async def test_of_one_that_waits_and_one_that_does_not_the_card_of_one_at_most_stands(
    tiny_model: Path, seed: int
) -> None:
    rng = random.Random(seed)
    world = World()
    world.discovery = discovery = Slow(rng)

    async def register(runtime: DistributedRuntime, size: int, on_conflict: OnConflict) -> None:
        config = ModelConfig(path=tiny_model, kv_cache_block_size=size, on_conflict=on_conflict)
        await register_llm(runtime.endpoint("a.b.c"), config)

    async with world.runtime() as one, world.runtime() as other, asyncio.timeout(DEADLINE_S):
        results = await asyncio.gather(register(one, 16, "refuse"), register(other, 32, "wait"), return_exceptions=True)
        left = {(card.kv_cache_block_size, card.waits) for card in await cards(discovery)}
    if results[0] is None:
        assert left == {(16, False), (32, True)}
    else:
        assert isinstance(results[0], ConfigError)
        assert left == {(32, False)}
    assert results[1] is None


async def test_a_card_that_is_settling_is_no_business_of_a_frontend(tiny_model: Path) -> None:
    world = World()
    async with world.runtime() as runtime, ModelManager(runtime) as models:
        endpoint = runtime.endpoint("a.b.c")
        card = ModelCard.from_local_path(tiny_model, name="settling")
        key = endpoint.id.model_card_key(1)
        fields = card.to_json().replace(b'"is_settling":false', b'"is_settling":true')
        await world.discovery.put(key, fields)
        async with world.worker(ScriptedEngine(never), tiny_model):
            await until(lambda: models.names() == [MODEL])
        with pytest.raises(Exception, match="'settling' does not exist"):
            models.pipeline("settling")


async def test_a_worker_that_registers_anew_is_compared_with_the_others_and_keeps_its_card_if_it_is_refused(
    tiny_model: Path,
) -> None:
    world = World()
    async with (
        world.worker(ScriptedEngine(never), tiny_model) as first,
        world.worker(ScriptedEngine(never), tiny_model),
    ):
        endpoint = first.endpoint("test.worker.generate")
        with pytest.raises(ConfigError, match="its context length is 100, and that of worker"):
            await register_llm(endpoint, ModelConfig(path=tiny_model, name=MODEL, context_length=100))
        assert [card.context_length for card in await cards(world.discovery)] == [4096, 4096]
        await register_llm(endpoint, ModelConfig(path=tiny_model, name=MODEL, user_data={"a": 1}))
        await unregister_llm(endpoint)
        assert len(await cards(world.discovery)) == 1


async def test_one_worker_alone_may_register_anew_with_another_card(tiny_model: Path) -> None:
    world = World()
    async with world.worker(ScriptedEngine(never), tiny_model) as runtime:
        config = ModelConfig(path=tiny_model, name=MODEL, kv_cache_block_size=32)
        await register_llm(runtime.endpoint("test.worker.generate"), config)
        assert [card.kv_cache_block_size for card in await cards(world.discovery)] == [32]


async def test_who_gives_a_registration_up_leaves_no_card(tiny_model: Path) -> None:
    world = World()
    async with world.runtime() as runtime:
        endpoint = runtime.endpoint("a.b.c")
        # Somebody with a higher id is settling, and does not get on.
        rival = ModelCard.from_local_path(tiny_model, kv_cache_block_size=64)
        stuck = rival.to_json().replace(b'"is_settling":false', b'"is_settling":true')
        await world.discovery.put(endpoint.id.model_card_key((1 << 63) - 1), stuck)
        task = asyncio.create_task(register_llm(endpoint, ModelConfig(path=tiny_model)))
        async with asyncio.timeout(SETTLED_S):  # so long it waits for the other one
            while len(await cards(world.discovery)) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [card.kv_cache_block_size for card in await cards(world.discovery)] == [64]


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


async def test_a_worker_is_not_registered_if_nobody_says_who_the_others_are(tiny_model: Path) -> None:
    world, discovery = World(), Deaf()
    world.discovery = discovery
    async with world.runtime() as runtime:
        with pytest.raises(CannotConnect, match="discovery is away"):
            await register_llm(runtime.endpoint("a.b.c"), ModelConfig(path=tiny_model))
        discovery.is_away = False
        assert await cards(discovery) == []

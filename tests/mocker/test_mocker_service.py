"""The simulated worker as a service of an SDK graph."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.sdk.world import World

from dynamo._core.address import MODEL_CARDS
from dynamo._core.errors import ConfigError, InvalidArgument
from dynamo.echo import EchoEngine
from dynamo.llm import ModelConfig, register_llm
from dynamo.llm._model_card import ModelCard
from dynamo.llm._register import serve_engine
from dynamo.mocker import MockerWorker
from dynamo.sdk import service


@service(dynamo={"namespace": "zoo"})
class Pretender(MockerWorker):
    """Behaves like a worker with a model."""


@pytest.fixture(autouse=True)
def _configured(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
    section = {"model-path": str(tiny_model), "model-name": "mock", "block-size": 16, "speedup-ratio": 0}
    monkeypatch.setenv("DYNAMO_SERVICE_CONFIG", json.dumps({"Pretender": section}))


async def test_a_service_with_this_base_answers_and_says_what_was_cached() -> None:
    request = {"model": "mock", "token_ids": list(range(40)), "stop_conditions": {"max_tokens": 2}}
    async with AsyncExitStack() as stack:
        world = World(stack)
        await world.run(Pretender)
        for cached in ({}, {"cached_tokens": 32}):
            *_, last = await world.call(Pretender, "generate", request)
            assert isinstance(last, dict)
            assert last["finish_reason"] == "length"
            assert last["completion_usage"]["prompt_tokens_details"] == cached


async def test_its_card_says_how_large_its_cache_is() -> None:
    async with AsyncExitStack() as stack:
        world = World(stack)
        discovery = (await world.join()).discovery
        await world.run(Pretender)
        (found,) = (await discovery.get_prefix(MODEL_CARDS)).values()
        card = ModelCard.from_json(found)
    assert (card.display_name, card.kv_cache_block_size) == ("mock", 16)
    assert card.runtime_config["total_kv_blocks"] == 16384


async def test_what_is_no_request_is_an_invalid_argument() -> None:
    async with AsyncExitStack() as stack:
        world = World(stack)
        await world.run(Pretender)
        with pytest.raises(InvalidArgument, match="token_ids"):
            await world.call(Pretender, "generate", {"model": "mock", "token_ids": "five"})


def test_settings_that_make_no_sense_are_refused_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match="block_size=0"):
        MockerWorker("model", block_size=0)
    with pytest.raises(ConfigError, match="startup_time_s=-1"):
        MockerWorker("model", startup_time_s=-1)
    with pytest.raises(ConfigError, match="on_conflict='win': give 'refuse' or 'wait'"):
        MockerWorker("model", on_conflict="win")


@pytest.mark.parametrize("on_conflict", [None, "refuse", "wait"])
async def test_beside_workers_that_differ_it_fails_or_waits_as_the_configuration_says(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path, on_conflict: str | None
) -> None:
    said = {} if on_conflict is None else {"on-conflict": on_conflict}
    section = {"model-path": str(tiny_model), "model-name": "mock", "block-size": 32, **said}
    monkeypatch.setenv("DYNAMO_SERVICE_CONFIG", json.dumps({"Pretender": section}))
    async with AsyncExitStack() as stack:
        world = World(stack)
        other = (await world.join()).endpoint("zoo.Pretender.generate")
        await serve_engine(other, EchoEngine())
        await register_llm(other, ModelConfig(path=tiny_model, name="mock", kv_cache_block_size=16))
        if on_conflict != "wait":
            with pytest.raises(ConfigError, match="its KV cache block size is 32"):
                await world.run(Pretender)
            return
        await world.run(Pretender)
        found = (await other.runtime.discovery.get_prefix(MODEL_CARDS)).values()
        assert sorted(ModelCard.from_json(card).waits for card in found) == [False, True]


async def test_its_labels_and_whether_it_tells_of_its_blocks_are_set_in_the_configuration(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path
) -> None:
    section = {"model-path": str(tiny_model), "kv-events": False, "taints": ["h100", "eu"], "device-weight": 2}
    monkeypatch.setenv("DYNAMO_SERVICE_CONFIG", json.dumps({"Pretender": section}))
    async with AsyncExitStack() as stack:
        world = World(stack)
        discovery = (await world.join()).discovery
        await world.run(Pretender)
        (found,) = (await discovery.get_prefix(MODEL_CARDS)).values()
    config = ModelCard.from_json(found).runtime_config
    assert (config["kv_events"], config["taints"], config["device_weight"]) == (False, ["h100", "eu"], 2.0)


async def test_it_is_not_registered_before_its_start_up_time_is_over(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path
) -> None:
    section = {"model-path": str(tiny_model), "startup-time-s": 3600}
    monkeypatch.setenv("DYNAMO_SERVICE_CONFIG", json.dumps({"Pretender": section}))
    async with AsyncExitStack() as stack:
        world = World(stack)
        discovery = (await world.join()).discovery
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await world.run(Pretender)
        assert await discovery.get_prefix(MODEL_CARDS) == {}

"""The transformers worker as a service of an SDK graph."""

from __future__ import annotations

import json
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest
from tests.sdk.world import World
from tests.transformers.models import generated_by_the_library, loaded, request

from dynamo._core.address import MODEL_CARDS
from dynamo.llm._model_card import ModelCard
from dynamo.sdk import service
from dynamo.transformers import TransformersWorker
from dynamo.transformers.__main__ import SWITCH_INTERVAL_S


@service(dynamo={"namespace": "zoo"})
class Llama(TransformersWorker):
    """A real model."""


@pytest.fixture(autouse=True)
def _configured(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
    section = {
        "model_path": str(tiny_model),
        "dtype": "float32",
        "device": "cpu",
        "context_length": 100,
        "num_kv_blocks": 40,
        "kv_cache_block_size": 8,
    }
    monkeypatch.setenv("DYNAMO_SERVICE_CONFIG", json.dumps({"Llama": section}))


async def test_a_service_with_this_base_serves_the_model(tiny_model: Path) -> None:
    async with AsyncExitStack() as stack:
        world = World(stack)
        await world.run(Llama)
        items = await world.call(Llama, "generate", msgspec.to_builtins(request([5, 6, 7], 9)))
    tokens = [token for item in items if isinstance(item, dict) for token in item.get("token_ids", [])]
    assert tokens == generated_by_the_library(loaded(tiny_model).model, [5, 6, 7], 9)


async def test_its_thread_and_the_loop_take_turns_as_often_as_in_the_process_of_the_command() -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(10 * SWITCH_INTERVAL_S)
    try:
        async with AsyncExitStack() as stack:
            await World(stack).run(Llama)
            assert sys.getswitchinterval() == pytest.approx(SWITCH_INTERVAL_S)
    finally:
        sys.setswitchinterval(before)


async def test_its_card_says_how_many_blocks_its_prefix_cache_has_and_that_routers_hear_of_them() -> None:
    async with AsyncExitStack() as stack:
        world = World(stack)
        discovery = (await world.join()).discovery
        await world.run(Llama)
        (found,) = (await discovery.get_prefix(MODEL_CARDS)).values()
    card = ModelCard.from_json(found)
    assert (card.kv_cache_block_size, card.runtime_config["total_kv_blocks"]) == (8, 40)
    assert card.runtime_config["kv_events"] is True


async def test_its_labels_and_whether_it_tells_of_its_blocks_are_set_in_the_configuration(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path
) -> None:
    section = {"model_path": str(tiny_model), "device": "cpu", "kv_events": False, "taints": "h100,eu"}
    monkeypatch.setenv("DYNAMO_SERVICE_CONFIG", json.dumps({"Llama": section}))
    async with AsyncExitStack() as stack:
        world = World(stack)
        discovery = (await world.join()).discovery
        await world.run(Llama)
        (found,) = (await discovery.get_prefix(MODEL_CARDS)).values()
    config = ModelCard.from_json(found).runtime_config
    assert (config["kv_events"], config["taints"]) == (False, ["h100", "eu"])

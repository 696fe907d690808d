"""The transformers worker as a service of an SDK graph."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest
from tests.sdk.world import World
from tests.transformers.models import generated_by_the_library, loaded, request

from dynamo.sdk import service
from dynamo.transformers import TransformersWorker


@service(dynamo={"namespace": "zoo"})
class Llama(TransformersWorker):
    """A real model."""


@pytest.fixture(autouse=True)
def _configured(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
    section = {"model_path": str(tiny_model), "dtype": "float32", "device": "cpu", "context_length": 100}
    monkeypatch.setenv("DYNAMO_SERVICE_CONFIG", json.dumps({"Llama": section}))


async def test_a_service_with_this_base_serves_the_model(tiny_model: Path) -> None:
    async with AsyncExitStack() as stack:
        world = World(stack)
        await world.run(Llama)
        items = await world.call(Llama, "generate", msgspec.to_builtins(request([5, 6, 7], 9)))
    tokens = [token for item in items if isinstance(item, dict) for token in item.get("token_ids", [])]
    assert tokens == generated_by_the_library(loaded(tiny_model).model, [5, 6, 7], 9)

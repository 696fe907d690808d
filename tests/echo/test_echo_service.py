"""The echo worker as a service of an SDK graph."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.sdk.world import World

from dynamo._core.address import MODEL_CARDS
from dynamo._core.errors import InvalidArgument
from dynamo.echo import EchoWorker
from dynamo.llm._model_card import ModelCard
from dynamo.sdk import service


@service(dynamo={"namespace": "zoo"})
class Parrot(EchoWorker):
    """Says prompts back."""


@pytest.fixture(autouse=True)
def _configured(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
    section = {"model-path": str(tiny_model), "model-name": "parrot"}
    monkeypatch.setenv("DYNAMO_SERVICE_CONFIG", json.dumps({"Parrot": section}))


async def test_a_service_with_this_base_says_prompts_back() -> None:
    async with AsyncExitStack() as stack:
        world = World(stack)
        await world.run(Parrot)
        items = await world.call(Parrot, "generate", {"model": "parrot", "token_ids": [5, 6]})
    assert items[0] == {"token_ids": [5]}
    assert isinstance(items[1], dict)
    assert items[1]["finish_reason"] == "stop"


async def test_its_model_is_registered_while_it_runs() -> None:
    async with AsyncExitStack() as stack:
        world = World(stack)
        discovery = (await world.join()).discovery
        runner = await world.run(Parrot)
        (card,) = (await discovery.get_prefix(MODEL_CARDS)).values()
        assert ModelCard.from_json(card).display_name == "parrot"
        await runner.stop()
        assert not await discovery.get_prefix(MODEL_CARDS)


async def test_what_is_no_request_is_an_invalid_argument() -> None:
    async with AsyncExitStack() as stack:
        world = World(stack)
        await world.run(Parrot)
        with pytest.raises(InvalidArgument, match="token_ids"):
            await world.call(Parrot, "generate", {"model": "parrot", "token_ids": "five"})

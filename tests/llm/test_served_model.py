"""An engine that somebody else serves: its model is known as long as it can answer."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.llm.scene import DEADLINE_S, World

from dynamo._core.address import MODEL_CARDS
from dynamo._core.errors import EngineShutdown, InvalidArgument, NotFound
from dynamo.echo import EchoEngine
from dynamo.llm import ModelInput, ModelType, register_llm
from dynamo.llm._model_card import ModelCard
from dynamo.llm._served_model import ServedModel


async def test_its_card_says_how_long_the_engines_context_is_until_it_is_closed(tiny_model: Path) -> None:
    async with World().runtime() as runtime:
        at = runtime.endpoint("test.worker.generate")
        model = await ServedModel.start(EchoEngine(max_context_length=77), at, tiny_model, "parrot")
        (card,) = (await runtime.discovery.get_prefix(MODEL_CARDS)).values()
        assert ModelCard.from_json(card).display_name == "parrot"
        assert ModelCard.from_json(card).context_length == 77
        await model.close()
        await model.close()
        assert not await runtime.discovery.get_prefix(MODEL_CARDS)


async def test_a_runtime_whose_engine_fails_shuts_down(tiny_model: Path) -> None:
    engine = EchoEngine(max_context_length=77)
    async with World().runtime() as runtime:
        at = runtime.endpoint("test.worker.generate")
        model = await ServedModel.start(engine, at, tiny_model, "parrot")
        await engine.close()
        async with asyncio.timeout(DEADLINE_S):
            await runtime.wait_for_shutdown()
        with pytest.raises(EngineShutdown):
            await model.close()
        await model.close()


async def test_an_engine_whose_model_cannot_be_registered_is_closed(tmp_path: Path) -> None:
    engine = EchoEngine(max_context_length=77)
    async with World().runtime() as runtime:
        with pytest.raises(NotFound):
            await ServedModel.start(engine, runtime.endpoint("test.worker.generate"), tmp_path / "nowhere", "parrot")
    assert isinstance(await engine.ended(), EngineShutdown)


async def test_one_process_does_not_serve_two_models_at_one_endpoint(tiny_model: Path) -> None:
    async with World().runtime() as runtime:
        at = runtime.endpoint("test.worker.generate")

        async def register(name: str) -> None:
            await register_llm(ModelInput.Tokens, ModelType.Chat, at, str(tiny_model), name)

        await register("one")
        await register("one")
        with pytest.raises(InvalidArgument, match="serves the model 'one' at test/worker/generate"):
            await register("two")
        (card,) = (await runtime.discovery.get_prefix(MODEL_CARDS)).values()
        assert ModelCard.from_json(card).display_name == "one"

"""What workers say that they can do, and what frontends make of it; and what a frontend must know to serve a worker."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from pydantic import JsonValue
from tests.llm.scene import MODEL, ScriptedEngine, World, load_tokenizer, never, says_text, until

from dynamo._core.address import EndpointId
from dynamo._core.context import Context
from dynamo._core.errors import InvalidArgument, NotFound, WorkerUnavailable
from dynamo.echo import EchoEngine
from dynamo.llm import KvRouter, ModelConfig, ModelInput, ModelType, RouterConfig, RouterMode, register_llm
from dynamo.llm._model_card import ModelCard
from dynamo.llm._models import ModelManager
from dynamo.llm._openai import ChatRequest, CompletionRequest, OpenAIRequest, parse
from dynamo.llm._routing_modes import ModeRouter
from dynamo.llm._worker import capabilities_of

AT = EndpointId("test", "worker", "generate")


def asking(**fields: JsonValue) -> OpenAIRequest:
    return parse(CompletionRequest, {"model": MODEL, "prompt": "hi", **fields})


def takes(models: ModelManager, request: OpenAIRequest) -> bool:
    try:
        models.pipeline(MODEL, request)
    except InvalidArgument:
        return False
    return True


CHAT = parse(
    ChatRequest, {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "logprobs": True, "top_logprobs": 2}
)


@pytest.mark.parametrize(
    ("capability", "request_", "param"),
    [
        ("logprobs", asking(logprobs=0), "logprobs"),
        ("logprobs", CHAT, "logprobs"),
        ("seed", asking(seed=0), "seed"),
        ("penalties", asking(presence_penalty=0.5), "presence_penalty"),
        ("penalties", asking(frequency_penalty=0.5), "frequency_penalty"),
        ("penalties", asking(repetition_penalty=1.5), "repetition_penalty"),
        ("cache_salt", asking(cache_salt="red"), "cache_salt"),
        ("cache_salt", asking(nvext={"cache_salt": "red"}), "cache_salt"),
    ],
)
async def test_a_request_for_what_the_workers_cannot_do_is_refused_by_name(
    tiny_model: Path, capability: str, request_: OpenAIRequest, param: str
) -> None:
    world = World()
    others = [name for name in ("logprobs", "seed", "penalties", "cache_salt") if name != capability]
    async with world.worker(ScriptedEngine(never), tiny_model, capabilities=others), world.models() as models:
        with pytest.raises(InvalidArgument) as refused:
            models.pipeline(MODEL, request_)
        assert refused.value.message == (
            f"the workers of the model 'tiny' cannot do {capability!r}, which {param!r} asks for: leave it out"
        )
        assert refused.value.details["param"] == param
    async with world.worker(ScriptedEngine(never), tiny_model, capabilities=[capability]), world.models() as models:
        models.pipeline(MODEL, request_)


async def test_what_penalizes_nothing_asks_for_nothing(tiny_model: Path) -> None:
    world = World()
    neutral = asking(presence_penalty=0, frequency_penalty=0.0, repetition_penalty=1, top_p=0.5, temperature=0.3)
    async with world.worker(ScriptedEngine(never), tiny_model, capabilities=[]), world.models() as models:
        models.pipeline(MODEL, neutral)


async def test_workers_that_do_not_tell_can_do_everything(tiny_model: Path) -> None:
    world = World()
    async with world.worker(ScriptedEngine(never), tiny_model), world.models() as models:
        models.pipeline(MODEL, asking(logprobs=1, seed=3, presence_penalty=1, cache_salt="red"))


async def test_what_frontends_do_not_know_is_ignored(tiny_model: Path) -> None:
    world = World()
    names = ["telepathy", "logprobs"]
    async with world.worker(ScriptedEngine(never), tiny_model, capabilities=names), world.models() as models:
        models.pipeline(MODEL, asking(logprobs=1))


async def test_of_several_workers_all_must_be_able_to(tiny_model: Path) -> None:
    world = World()
    async with world.worker(ScriptedEngine(never), tiny_model, capabilities=["seed"]), world.models() as models:
        models.pipeline(MODEL, asking(seed=1))
        async with world.worker(ScriptedEngine(never), tiny_model, capabilities=["logprobs"]):
            await until(lambda: not takes(models, asking(seed=1)))
            assert not takes(models, asking(logprobs=1))
        await until(lambda: takes(models, asking(seed=1)))


async def test_the_card_of_an_older_worker_says_nothing_of_capabilities(tiny_model: Path) -> None:
    fields = msgspec.json.decode(ModelCard.from_local_path(tiny_model).to_json(), type=dict[str, object])
    for name in ("capabilities", "requires", "user_data", "router_config", "is_settling", "waits"):
        del fields[name]
    card = ModelCard.from_json(msgspec.json.encode(fields))
    assert (card.capabilities, card.requires, card.is_settling, card.waits) == (None, [], False, False)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (
            {"requires": ["router_config", "telepathy"]},
            "it requires 'telepathy' of the frontend, which does not know it",
        ),
        ({"model_type": ModelType.Embedding}, "it serves embedding, for which there is no route"),
        ({"model_input": ModelInput.Tensor}, "it takes tensor, and frontends send tokens or text"),
    ],
)
async def test_a_worker_that_this_frontend_cannot_serve_is_not_listed_and_its_model_says_why(
    tiny_model: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, object], why: str
) -> None:
    world = World()
    card = msgspec.structs.replace(ModelCard.from_local_path(tiny_model, name=MODEL), **changes)
    async with world.runtime() as runtime, ModelManager(runtime) as models:
        await world.discovery.put(AT.model_card_key(1), card.to_json())
        await until(lambda: "cannot be served here" in caplog.text)
        assert f"of the model 'tiny' cannot be served here: {why}" in caplog.text
        assert models.names() == []
        with pytest.raises(WorkerUnavailable) as refused:
            models.pipeline(MODEL)
        assert why in refused.value.message
        assert why in str(models.fault())
        await world.discovery.delete(AT.model_card_key(1))
        await until(lambda: models.fault() is None)
        with pytest.raises(NotFound):
            models.pipeline(MODEL)


async def test_a_worker_that_can_be_served_is_though_another_one_cannot(tiny_model: Path) -> None:
    world = World()
    card = msgspec.structs.replace(ModelCard.from_local_path(tiny_model, name=MODEL), requires=["telepathy"])
    await world.discovery.put(AT.model_card_key(1), card.to_json())
    async with world.worker(ScriptedEngine(never), tiny_model), world.models() as models:
        assert models.names() == [MODEL]
        models.pipeline(MODEL)


async def test_workers_may_say_how_they_are_routed_to(tiny_model: Path) -> None:
    world = World()
    engine = ScriptedEngine(says_text(await load_tokenizer(tiny_model), "hi"))
    by_kv = RouterConfig(RouterMode.KV)
    async with world.worker(engine, tiny_model, router_config=by_kv), world.models() as models:
        assert isinstance(models.routers()[MODEL], KvRouter)
        await models.pipeline(MODEL).complete(asking(), Context())
        assert len(engine.requests) == 1


async def test_what_workers_say_of_routing_takes_the_place_of_what_the_frontend_is_told(tiny_model: Path) -> None:
    world = World()
    at_random = RouterConfig(RouterMode.Random)
    async with (
        world.worker(ScriptedEngine(never), tiny_model, router_config=at_random),
        world.runtime() as runtime,
        ModelManager(runtime, router=RouterConfig(RouterMode.KV)) as models,
    ):
        await until(lambda: models.names() == [MODEL])
        assert isinstance(models.routers()[MODEL], ModeRouter)


async def test_a_frontend_does_not_serve_a_model_whose_routing_makes_no_sense_to_it(
    tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    card = ModelCard.from_local_path(tiny_model, name=MODEL)
    said: dict[str, object] = {"mode": "kv", "config": {"policy": "evil:policy"}}
    await world.discovery.put(AT.model_card_key(1), msgspec.structs.replace(card, router_config=said).to_json())
    async with world.runtime() as runtime, ModelManager(runtime) as models:
        await until(lambda: models.fault() is not None and caplog.text != "")
        assert "names a policy: code is loaded for the frontend's own operator only" in caplog.text


async def test_what_somebody_says_of_a_model_can_be_read_at_the_frontend(tiny_model: Path) -> None:
    world = World()
    async with world.runtime() as runtime, ModelManager(runtime) as models:
        config = ModelConfig(path=tiny_model, name=MODEL, user_data={"team": "red"})
        await register_llm(runtime.endpoint("test.worker.generate"), config)
        await until(lambda: models.user_data(MODEL) != {})
        assert models.user_data(MODEL) == {"team": "red"}
        assert models.user_data("other") == {}


def test_capabilities_are_what_the_engine_tells_and_its_events() -> None:
    engine = EchoEngine()
    assert capabilities_of(engine, {"kv_events": True}) == ["seed", "cache_salt", "kv_events"]
    assert capabilities_of(engine, {"kv_events": False}) == ["seed", "cache_salt"]

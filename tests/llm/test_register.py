"""Registering a model: with a config, or with the arguments of older programs; and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from tests.llm.scene import BOTH, MODEL, World

from dynamo._core.address import MODEL_CARDS
from dynamo._core.errors import ConfigError, DynamoError, InvalidArgument, NotFound
from dynamo._internal import ModelRuntimeConfig
from dynamo.llm import (
    Engine,
    EngineOutput,
    KvRouterConfig,
    ModelConfig,
    ModelInput,
    ModelType,
    PolicyClass,
    RouterConfig,
    RouterMode,
    fetch_llm,
    fetch_model,
    register_llm,
    register_model,
    serve_engine,
    unregister_llm,
    unregister_model,
)
from dynamo.llm._advertised_router import advertised, read_advertised
from dynamo.llm._limits import MODEL_CARD_BYTES_MAX
from dynamo.llm._model_card import ModelCard
from dynamo.llm._plain_model import made_of
from dynamo.runtime import DistributedRuntime, Endpoint


@asynccontextmanager
async def an_endpoint(world: World | None = None) -> AsyncIterator[Endpoint]:
    async with (world or World()).runtime() as runtime:
        yield runtime.endpoint("test.worker.generate")


async def card_at(endpoint: Endpoint) -> ModelCard | None:
    values = list((await endpoint.runtime.discovery.get_prefix(MODEL_CARDS)).values())
    return ModelCard.from_json(values[0]) if values else None


def without_template(model: Path, folder: Path) -> Path:
    bare = folder / "bare"
    shutil.copytree(model, bare)
    for template in [*bare.rglob("*.jinja")]:
        template.unlink()
    config = msgspec.json.decode((bare / "tokenizer_config.json").read_bytes(), type=dict[str, object])
    config.pop("chat_template", None)
    (bare / "tokenizer_config.json").write_bytes(msgspec.json.encode(config))
    return bare


async def test_an_endpoint_and_a_path_are_enough(tiny_model: Path) -> None:
    async with an_endpoint() as endpoint:
        card = await register_llm(endpoint, ModelConfig(path=tiny_model))
        assert card == await card_at(endpoint)
        assert (card.display_name, card.model_type, card.model_input) == (tiny_model.name, BOTH, ModelInput.Tokens)
        await unregister_llm(endpoint)
        assert await card_at(endpoint) is None
        await unregister_llm(endpoint)


async def test_the_config_is_in_the_card(tiny_model: Path) -> None:
    async with an_endpoint() as endpoint:
        router = RouterConfig(RouterMode.KV, KvRouterConfig(use_kv_events=False), session_affinity_ttl_secs=60.0)
        config = ModelConfig(
            path=str(tiny_model),
            name=MODEL,
            context_length=100,
            kv_cache_block_size=32,
            model_type=ModelType.Completions,
            router_config=router,
            migration_limit=1,
            runtime_config=ModelRuntimeConfig(total_kv_blocks=7),
            user_data={"team": "red"},
            capabilities=["logprobs"],
        )
        await register_llm(endpoint=endpoint, config=config)
        card = await card_at(endpoint)
        assert card is not None
        assert (card.display_name, card.context_length, card.kv_cache_block_size) == (MODEL, 100, 32)
        assert (card.model_type, card.migration_limit) == (ModelType.Completions, 1)
        assert (card.runtime_config, card.user_data) == ({"total_kv_blocks": 7}, {"team": "red"})
        assert (card.capabilities, card.requires) == (["logprobs"], ["router_config"])
        assert card.router_config is not None
        assert read_advertised(card.router_config) == router


async def test_the_long_form_says_the_same_by_place_and_by_name(tiny_model: Path) -> None:
    async with an_endpoint() as endpoint:
        by_place = await register_llm(
            ModelInput.Tokens, BOTH, endpoint, str(tiny_model), MODEL, 100, 32, RouterMode.Random, 2,
            {"total_kv_blocks": 7}, {"team": "red"}, None, None, None,
        )  # fmt: skip
        by_name = await register_llm(
            model_input=ModelInput.Tokens,
            model_type=BOTH,
            endpoint=endpoint,
            model_path=tiny_model,
            model_name=MODEL,
            context_length=100,
            kv_cache_block_size=32,
            router_mode=RouterMode.Random,
            migration_limit=2,
            runtime_config=ModelRuntimeConfig(total_kv_blocks=7),
            user_data={"team": "red"},
        )
        short = await register_llm(
            endpoint,
            ModelConfig(
                path=tiny_model, name=MODEL, model_type=BOTH, context_length=100, kv_cache_block_size=32,
                router_mode=RouterMode.Random, migration_limit=2, runtime_config={"total_kv_blocks": 7},
                user_data={"team": "red"},
            ),
        )  # fmt: skip
        model = await register_model(
            ModelInput.Tokens, BOTH, endpoint, str(tiny_model), MODEL,
            worker_type="aggregated", context_length=100, kv_cache_block_size=32, router_mode=RouterMode.Random,
            migration_limit=2, runtime_config={"total_kv_blocks": 7}, user_data={"team": "red"}, ignore_weights=True,
            needs=[], model_aliases=(), tensor_model_config=None,
        )  # fmt: skip
        assert by_place == by_name == short == model


def test_todays_names_are_the_same_functions() -> None:
    assert unregister_model is unregister_llm
    assert fetch_model is fetch_llm


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "endpoint=None is of type NoneType: give an Endpoint, such as runtime.endpoint("),
        ({"endpoint": "a.b.c", "config": ModelConfig(path="/m")}, "endpoint='a.b.c' is of type str: give an Endpoint"),
        ({"endpoint": None, "config": ModelConfig(path="/m")}, "endpoint=None is of type NoneType"),
        ({"config": {"path": "/m"}}, "config={'path': '/m'} is of type dict: give a ModelConfig"),
        ({"config": ModelConfig(path="/m"), "model_name": "x"}, "takes model_name nowhere else"),
        ({"config": ModelConfig(path="/m"), "kv_cache_block_size": 3}, "takes kv_cache_block_size nowhere else"),
        ({"model_input": ModelInput.Tokens}, "register_llm takes an endpoint and a ModelConfig, or model_input,"),
        ({"model_input": ModelInput.Tokens, "model_type": BOTH}, "register_llm takes an endpoint and a ModelConfig"),
        ({"path": "/m"}, "unexpected keyword argument 'path'"),
    ],
)
async def test_arguments_that_do_not_belong_together_are_type_errors(arguments: dict[str, object], said: str) -> None:
    async with an_endpoint() as endpoint:
        given = {"endpoint": endpoint} | arguments if arguments else {}
        with pytest.raises(TypeError) as refused:
            await register_llm(**given)  # type: ignore[call-overload]
        assert said in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"model_input": 5}, "ModelConfig: 'model_input' is 5"),
        ({"model_type": 5}, "model_type is 5: give ModelTypes"),
        ({"kv_cache_block_size": 0}, "'kv_cache_block_size' is 0"),
        ({"migration_limit": -1}, "'migration_limit' is -1"),
        ({"context_length": 10**9}, "context_length is 1000000000"),
        ({"model_name": "a b"}, "'a b' is not a valid model name"),
        ({"custom_template_path": "/no/such"}, "chat template /no/such does not exist"),
        ({"lora_name": "x"}, "lora_name is given without base_model_path"),
        ({"model_path": "/no/such/folder"}, "there is no model directory at '/no/such/folder'"),
    ],
)
async def test_a_wrong_value_of_the_long_form_is_named(
    tiny_model: Path, arguments: dict[str, object], said: str
) -> None:
    async with an_endpoint() as endpoint:
        usual = {
            "model_input": ModelInput.Tokens, "model_type": BOTH, "endpoint": endpoint, "model_path": str(tiny_model),
        }  # fmt: skip
        with pytest.raises(DynamoError) as refused:
            await register_llm(**usual | arguments)  # type: ignore[call-overload]
        assert said in str(refused.value)
        assert await card_at(endpoint) is None


@pytest.mark.parametrize("argument", ["model_path", "model_name"])
async def test_a_name_that_is_no_text_is_told_as_it_is_called_in_the_long_form(argument: str) -> None:
    async with an_endpoint() as endpoint:
        usual = {"model_input": ModelInput.Tokens, "model_type": BOTH, "endpoint": endpoint, "model_path": "/m"}
        with pytest.raises(TypeError, match=f"{argument}=5 is of type int: give a str"):
            await register_llm(**usual | {argument: 5})  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("worker_type", "prefill"),
        ("tensor_model_config", {"a": 1}),
        ("media_decoder", object()),
        ("media_fetcher", object()),
        ("needs", [["decode"]]),
        ("self_host_metadata", True),
        ("max_gpu_lora_count", 3),
        ("model_aliases", ["other"]),
        ("skip_model_assets", True),
    ],
)
async def test_arguments_of_today_that_have_no_meaning_here_are_refused_by_name(
    tiny_model: Path, argument: str, value: object
) -> None:
    async with an_endpoint() as endpoint:
        with pytest.raises(ConfigError, match=f"^{argument} is "):
            await register_model(ModelInput.Tokens, BOTH, endpoint, str(tiny_model), **{argument: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model_type": ModelType.Images}, "it serves images, for which there is no route; there are routes for chat,"),
        ({"model_type": BOTH | ModelType.Audios}, "cannot be registered for audios: there are routes for chat,comp"),
        ({"model_input": ModelInput.Tensor}, "it takes tensor, and frontends send tokens or text"),
    ],
)
async def test_what_no_frontend_can_serve_is_not_registered(
    tiny_model: Path, fields: dict[str, object], said: str
) -> None:
    async with an_endpoint() as endpoint:
        with pytest.raises(ConfigError) as refused:
            await register_llm(endpoint, made_of(ModelConfig, {"path": tiny_model, **fields}))
        assert said in str(refused.value)
        assert await card_at(endpoint) is None


async def test_a_model_without_a_chat_template_is_registered_for_completions_and_not_for_chat(
    tiny_model: Path, tmp_path: Path
) -> None:
    bare = without_template(tiny_model, tmp_path)
    async with an_endpoint() as endpoint:
        assert (await register_llm(endpoint, ModelConfig(path=bare))).model_type is ModelType.Completions
        with pytest.raises(
            ConfigError, match="has no chat template and cannot be registered for chat: give a template"
        ):
            await register_llm(endpoint, ModelConfig(path=bare, model_type=BOTH))
        template = tmp_path / "chat.jinja"
        template.write_text("{{ messages }}")
        config = ModelConfig(path=bare, model_type=BOTH, custom_template_path=template)
    async with an_endpoint() as endpoint:
        assert (await register_llm(endpoint, config)).model_type == BOTH
    async with an_endpoint() as endpoint:
        text = await register_llm(endpoint, ModelConfig(path=bare, model_input=ModelInput.Text))
        assert text.model_type == BOTH


async def test_a_second_model_at_one_endpoint_of_a_process_is_refused(tiny_model: Path) -> None:
    async with an_endpoint() as endpoint:
        await register_llm(endpoint, ModelConfig(path=tiny_model, name="one"))
        with pytest.raises(InvalidArgument, match="serves the model 'one' at test/worker/generate: serve 'two' at"):
            await register_llm(endpoint, ModelConfig(path=tiny_model, name="two"))


async def test_a_card_that_is_too_large_is_refused_at_once(tiny_model: Path) -> None:
    async with an_endpoint() as endpoint:
        config = ModelConfig(path=tiny_model, runtime_config={"x": "y" * MODEL_CARD_BYTES_MAX})
        with pytest.raises(ConfigError, match=rf"has \d+ bytes: at most {MODEL_CARD_BYTES_MAX}"):
            await register_llm(endpoint, config)


async def test_no_adapter_can_be_unregistered(tiny_model: Path) -> None:
    async with an_endpoint() as endpoint:
        with pytest.raises(
            ConfigError, match="lora_name is 'x': no LoRA adapter is registered at test/worker/generate"
        ):
            await unregister_llm(endpoint, "x")
        with pytest.raises(TypeError, match=r"endpoint='a\.b\.c' is of type str: give an Endpoint"):
            await unregister_llm("a.b.c")  # type: ignore[arg-type]


async def test_a_directory_that_is_no_model_is_not_registered(tmp_path: Path) -> None:
    async with an_endpoint() as endpoint:
        with pytest.raises(ConfigError, match=r"is not a model directory: it has no config\.json"):
            await register_llm(endpoint, ModelConfig(path=tmp_path))
        with pytest.raises(NotFound, match="there is no model directory at"):
            await register_llm(endpoint, ModelConfig(path=tmp_path / "none"))


def test_a_router_that_is_advertised_is_read_as_it_was() -> None:
    for config in (
        RouterConfig(),
        RouterConfig(RouterMode.Random, session_affinity_ttl_secs=5.0),
        RouterConfig(RouterMode.KV, active_decode_blocks_threshold=0.5),
        RouterConfig(RouterMode.KV, KvRouterConfig(queue_threshold=2.0, policy_classes=(PolicyClass("a", quantum=3),))),
    ):
        on_the_wire = msgspec.json.decode(msgspec.json.encode(advertised(config)), type=dict[str, object])
        assert read_advertised(on_the_wire) == config


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"mode": "psychic"}, "'psychic' is no router mode"),
        ({"mode": 3}, "makes no sense here"),
        ({"mode": "kv", "warp": 1}, "has 'warp', which this frontend does not know"),
        ({"mode": "kv", "config": {"policy": "evil:policy"}}, "names a policy: code is loaded for the frontend's own"),
        ({"mode": "kv", "config": 3}, "names a policy"),
        ({"mode": "kv", "config": {"warp": 1}}, "the KV router has no option 'warp'"),
        ({"mode": "kv", "config": {"queue_threshold": "x"}}, "queue_threshold is 'x'"),
        ({"mode": "kv", "session_affinity_ttl_secs": "x"}, "session_affinity_ttl_secs is 'x'"),
    ],
)
def test_a_router_that_no_frontend_understands_is_refused(said: dict[str, object], why: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_advertised(said)
    assert why in str(refused.value)


class NoEngine:
    """An engine whose parentheses are forgotten is one as a class."""

    async def generate(self, request: object, context: object) -> AsyncIterator[EngineOutput]:
        yield EngineOutput(finish_reason="stop")


@pytest.mark.parametrize(
    ("engine", "said"), [(None, "give an object with generate"), (NoEngine, r"give an instance of it, NoEngine\(")]
)
async def test_what_is_no_engine_is_not_served(engine: Engine, said: str) -> None:
    async with DistributedRuntime(discovery="memory:", request_plane="inproc:") as runtime:
        with pytest.raises(TypeError, match=rf"engine=.*{said}"):
            await serve_engine(runtime.endpoint("ns.comp.ep"), engine)

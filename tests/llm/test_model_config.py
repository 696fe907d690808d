"""What somebody says of a model: everything that makes no sense is refused as it is said, by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynamo._core.errors import ConfigError, DynamoError
from dynamo._internal import ModelRuntimeConfig
from dynamo.llm import KvRouterConfig, ModelConfig, ModelInput, ModelType, RouterConfig, RouterMode
from dynamo.llm._plain_model import made_of

CYCLE: dict[str, object] = {}
CYCLE["itself"] = CYCLE


def test_a_path_is_enough() -> None:
    config = ModelConfig(path="/models/llama")
    assert (config.name, config.kv_cache_block_size, config.migration_limit) == (None, 16, 3)
    assert (config.model_type, config.model_input, config.on_conflict) == (None, ModelInput.Tokens, "refuse")
    assert (config.router, config.capabilities, config.runtime_facts) == (None, None, {})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "ModelConfig: 'path' is missing (directory of the model"),
        ({"path": 3}, "ModelConfig: 'path' is 3; it must be a valid string (directory"),
        ({"kv_block_size": 3}, "ModelConfig: there is no 'kv_block_size': did you mean 'kv_cache_block_size'?"),
        ({"zzz": 3}, "ModelConfig: there is no 'zzz': there are path, name,"),
        ({"context_length": 0}, "'context_length' is 0; it must be greater than or equal to 1"),
        ({"context_length": "long"}, "'context_length' is 'long'"),
        ({"kv_cache_block_size": 0}, "'kv_cache_block_size' is 0; it must be greater than or equal to 1"),
        ({"migration_limit": -1}, "'migration_limit' is -1; it must be greater than or equal to 0"),
        ({"migration_limit": 2000}, "'migration_limit' is 2000; it must be less than or equal to 1024"),
        ({"context_length": True}, "'context_length' is True; it must be a valid integer"),
        ({"kv_cache_block_size": 16.0}, "'kv_cache_block_size' is 16.0; it must be a valid integer"),
        ({"kv_cache_block_size": 1 << 40}, "'kv_cache_block_size' is 1099511627776; it must be less than or equal to"),
        ({"migration_limit": True}, "'migration_limit' is True; it must be a valid integer"),
        ({"model_type": ""}, "model_type is '': give ModelTypes joined with |"),
        ({"runtime_config": {"total_kv_blocks": -1}}, "'total_kv_blocks' is -1; it must be greater than or equal to 1"),
        ({"runtime_config": {"rate": float("nan")}}, "runtime_config is no object of JSON values"),
        ({"user_data": {"rate": float("inf")}}, "user_data is no object of JSON values"),
        ({"model_type": "chatty"}, "unknown model type 'chatty'; known are chat, completions"),
        ({"model_type": 7.5}, "model_type is 7.5: give ModelTypes joined with |"),
        ({"model_type": ModelType(0)}, "model_type is <ModelType: 0>: give ModelTypes joined with |"),
        ({"model_input": "words"}, "'model_input' is 'words'; it must be 'text', 'tokens' or 'tensor'"),
        ({"router_mode": "best"}, "'router_mode' is 'best'; it must be 'round-robin', 'random'"),
        ({"router_config": {"mode": "kv"}}, "'router_config' is {'mode': 'kv'}; it must be an instance of Router"),
        (
            {"router_mode": RouterMode.KV, "router_config": RouterConfig()},
            "router_mode is kv, and router_config has the mode round-robin: give one of them",
        ),
        (
            {"router_config": RouterConfig(RouterMode.KV, KvRouterConfig(policy="evil:policy"))},
            "a worker cannot have frontends load code, such as the policy 'evil:policy'",
        ),
        ({"runtime_config": 3}, "'runtime_config' is 3; it must be an instance of ModelRuntimeConfig"),
        ({"runtime_config": {"a": object()}}, "runtime_config is no object of JSON values"),
        ({"runtime_config": CYCLE}, "runtime_config is no object of JSON values"),
        ({"runtime_config": {"taints": "h100"}}, "taints is 'h100': it must be a list of labels"),
        ({"user_data": {"a": object()}}, "'user_data' is <object object"),
        ({"user_data": {"a": "x" * 70_000}}, "user_data has 70008 bytes as JSON: at most 65536"),
        ({"capabilities": ["Logprobs"]}, "'Logprobs' is no name of a capability: use lower-case letters"),
        ({"capabilities": [f"c{i}" for i in range(65)]}, "'capabilities' is ['c0'"),
        ({"on_conflict": "win"}, "'on_conflict' is 'win'; it must be 'refuse' or 'wait'"),
        ({"lora_name": "a"}, "lora_name is given without base_model_path: a LoRA adapter needs both"),
        ({"base_model_path": "/m"}, "base_model_path is given without lora_name: a LoRA adapter needs both"),
        ({"lora_name": "a", "base_model_path": "/m"}, "lora_name is 'a': LoRA adapters cannot be served yet"),
    ],
)
def test_a_wrong_argument_is_named_with_its_value_and_what_is_allowed(fields: dict[str, object], said: str) -> None:
    with pytest.raises(DynamoError) as refused:
        made_of(ModelConfig, fields if not fields or "path" in fields else {"path": "/m", **fields})
    assert said in str(refused.value)


def test_words_are_enough_for_what_is_an_enum() -> None:
    config = ModelConfig.model_validate(
        {"path": Path("/m"), "model_type": "chat,completions", "model_input": "text", "router_mode": "kv"}
    )
    assert config.model_type == ModelType.Chat | ModelType.Completions
    assert config.model_input is ModelInput.Text
    assert config.router == RouterConfig(RouterMode.KV)


def test_what_a_runtime_config_does_not_say_is_not_in_the_card() -> None:
    assert ModelRuntimeConfig().said() == {}
    said = ModelRuntimeConfig(total_kv_blocks=10, taints=["a", "a"], kv_events=False)
    assert ModelConfig(path="/m", runtime_config=said).runtime_facts == {
        "total_kv_blocks": 10, "taints": ["a"], "kv_events": False,
    }  # fmt: skip


def test_a_plain_dict_may_say_more_than_a_runtime_config_has_fields() -> None:
    assert ModelConfig(path="/m", runtime_config={"mine": [1]}).runtime_facts == {"mine": [1]}


def test_a_runtime_config_may_be_filled_in_later() -> None:
    config = ModelRuntimeConfig()
    config.max_num_seqs = 4
    config.set_engine_specific("speculation", {"tokens": 3})
    assert config.get_engine_specific("speculation") == {"tokens": 3}
    assert config.get_engine_specific("other") is None
    assert config.said() == {"max_num_seqs": 4, "runtime_data": {"speculation": {"tokens": 3}}}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("max_num_seqs", 0, "ModelRuntimeConfig: 'max_num_seqs' is 0; it must be greater than or equal to 1"),
        ("total_kv_blocks", "many", "ModelRuntimeConfig: 'total_kv_blocks' is 'many'"),
        ("data_parallel_size", 5000, "'data_parallel_size' is 5000; it must be less than or equal to 1024"),
        ("device_weight", 0, "'device_weight' is 0"),
        ("taints", ["a,b"], "taints has 'a,b'"),
        ("max_num_seq", 1, "ModelRuntimeConfig: there is no 'max_num_seq': did you mean 'max_num_seqs'?"),
        ("tool_call_parser", "hermes", "ModelRuntimeConfig: there is no 'tool_call_parser'"),
    ],
)
def test_a_runtime_config_is_checked_when_it_is_made_and_when_it_is_changed(
    name: str, value: object, said: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        made_of(ModelRuntimeConfig, {name: value})
    assert said in str(refused.value)
    with pytest.raises(ConfigError) as refused:
        setattr(ModelRuntimeConfig(), name, value)
    assert said in str(refused.value)


def test_what_is_no_json_cannot_be_said_of_an_engine() -> None:
    with pytest.raises(ConfigError, match="'runtime_data' is <object object"):
        ModelRuntimeConfig().set_engine_specific("a", object())  # type: ignore[arg-type]

"""What somebody who registers a model says of it: `ModelConfig`, and of the worker: `ModelRuntimeConfig`.

Both are checked as they are made. What a config says is in the model card, or is refused: nothing is ignored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import msgspec
from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    JsonValue,
    ValidationError,
    field_validator,
    model_validator,
)

from dynamo._core.errors import ConfigError
from dynamo._core.stability import stable
from dynamo.llm._advertised_router import advertised
from dynamo.llm._capabilities import CAPABILITIES_MAX, KNOWN_CAPABILITIES, check_capabilities
from dynamo.llm._kv_router.config import RouterConfig, RouterMode
from dynamo.llm._limits import USER_DATA_BYTES_MAX
from dynamo.llm._model_card import KV_CACHE_BLOCK_SIZE, MIGRATION_LIMIT, MIGRATION_LIMIT_MAX, ModelInput, ModelType
from dynamo.llm._numbers import shown
from dynamo.llm._plain_model import PlainModel, made_of
from dynamo.llm._worker_labels import DEVICE_WEIGHT_MAX, DEVICE_WEIGHT_MIN, TAINTS_MAX, check_labels

OnConflict = Literal["refuse", "wait"]

#: More ranks than this in one worker are a mistake.
RANKS_MAX = 1024
#: Nor has a model so many tokens at a time.
TOKENS_MAX = (1 << 31) - 1

#: True is no number, and neither is "16".
Count = Annotated[int, Field(strict=True, ge=1, le=TOKENS_MAX)]


class ModelRuntimeConfig(PlainModel):
    """What a worker tells routers of its engine, in its model card.

    What is None is not said. Fields may be set one by one, and are checked then, too: a wrong value, or a name that
    is no field, raises `ConfigError`.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(validate_assignment=True)

    total_kv_blocks: Count | None = Field(default=None, description="KV cache blocks of one rank")
    max_num_seqs: Count | None = Field(default=None, description="requests that run at a time")
    max_num_batched_tokens: Count | None = Field(default=None, description="tokens computed in one step")
    data_parallel_size: int = Field(
        default=1, strict=True, ge=1, le=RANKS_MAX, description="ranks that have a KV cache each"
    )
    kv_events: bool | None = Field(default=None, description="whether it publishes what is in its KV cache")
    taints: list[str] = Field(
        default=[], description=f"labels that requests may require or prefer, at most {TAINTS_MAX}"
    )
    device_weight: float | None = Field(
        default=None,
        ge=DEVICE_WEIGHT_MIN,
        le=DEVICE_WEIGHT_MAX,
        description="its share of the requests in the router mode device-aware-weighted; one that says nothing has 1",
    )
    runtime_data: dict[str, JsonValue] = Field(default={}, description="what else an engine says of itself, by name")

    @field_validator("taints")
    @classmethod
    def _are_labels(cls, taints: list[str]) -> list[str]:
        check_labels({"taints": taints})
        return list(dict.fromkeys(taints))

    def __setattr__(self, name: str, value: object) -> None:
        try:
            super().__setattr__(name, value)
        except ValidationError as error:
            raise self._refusal(error) from None

    def set_engine_specific(self, key: str, value: JsonValue) -> None:
        """Say something of the engine that has no field, as any JSON value. Raises `ConfigError` for another one."""
        self.runtime_data = {**self.runtime_data, key: value}

    def get_engine_specific(self, key: str) -> JsonValue:
        """Return what was said with `set_engine_specific`; None if nothing was."""
        return self.runtime_data.get(key)

    def said(self) -> dict[str, object]:
        """Return what is said as the plain object that a card has."""
        return self.model_dump(exclude_none=True, exclude_defaults=True)


def _model_type(value: object) -> ModelType | None:
    if isinstance(value, str):
        value = ModelType.parse(value) or value
    if value is not None and (not isinstance(value, ModelType) or not value):
        raise ConfigError(
            f"model_type is {shown(value)}: give ModelTypes joined with |, such as ModelType.Chat", setting="model_type"
        )
    return value


def check_runtime_facts(facts: Mapping[str, object]) -> None:
    """Check what a plain dict says: it may have any names, since engines have facts of their own."""
    check_labels(facts)
    _check_json("runtime_config", dict(facts))
    known = {name: fact for name, fact in facts.items() if name in ModelRuntimeConfig.model_fields}
    made_of(ModelRuntimeConfig, {name: fact for name, fact in known.items() if fact is not None})


def _runtime_config(value: object) -> object:
    if isinstance(value, dict):
        check_runtime_facts(value)
    return value


@stable(since="0.1")
class ModelConfig(PlainModel):
    """How a model is registered: `ModelConfig(path="/models/llama")` is enough for most.

    A value that makes no sense raises `ConfigError` with the parameter, its value and what is allowed; so does a
    name that is no parameter, with the one that was probably meant. What is wrong with the files of the model is said
    by `register_llm`, which reads them.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)

    path: str | Path = Field(
        description="directory of the model, or its name on the hub: owner/model, or with @revision"
    )
    name: str | None = Field(
        default=None, description="what requests call the model; None: its folder's, or as on the hub"
    )
    context_length: Count | None = Field(
        default=None, description="tokens of a prompt and its answer together, if fewer than the model's own"
    )
    kv_cache_block_size: Count = Field(default=KV_CACHE_BLOCK_SIZE, description="tokens in one block of the KV cache")
    model_type: Annotated[ModelType | None, BeforeValidator(_model_type)] = Field(
        default=None, description="what it can be asked for; None: chat, if it has a chat template, and completions"
    )
    model_input: ModelInput = Field(default=ModelInput.Tokens, description="what the worker takes: token ids, or text")
    router_mode: RouterMode | None = Field(
        default=None, description="how requests find the model's workers; None: as the frontend is told"
    )
    router_config: InstanceOf[RouterConfig] | None = Field(
        default=None,
        description="the same with options; takes the place of the whole configuration of the frontend's router",
    )
    migration_limit: int = Field(
        default=MIGRATION_LIMIT,
        strict=True,
        ge=0,
        le=MIGRATION_LIMIT_MAX,
        description="how often a request may move when its worker is lost; 0: never",
    )
    runtime_config: Annotated[InstanceOf[ModelRuntimeConfig] | dict[str, object], BeforeValidator(_runtime_config)] = (
        Field(
            default={},
            description="what routers are told of the engine: a ModelRuntimeConfig, or an object of JSON values",
        )
    )
    user_data: dict[str, JsonValue] = Field(
        default={},
        description=f"JSON of your own, at most {USER_DATA_BYTES_MAX} bytes: it is in the card, for who reads cards",
    )
    custom_template_path: str | Path | None = Field(
        default=None, description="file of a chat template to use instead of the model's"
    )
    capabilities: list[str] | None = Field(
        default=None,
        max_length=CAPABILITIES_MAX,
        description="what requests may ask of it, a request for another one of "
        f"{', '.join(KNOWN_CAPABILITIES)} is refused; None: everything",
    )
    on_conflict: OnConflict = Field(
        default="refuse",
        description="what becomes of this worker if others that serve the model differ from it: "
        "it is refused, or it is registered and waits until they are gone",
    )
    lora_name: str | None = Field(default=None, description="name of a LoRA adapter: none can be served yet")
    base_model_path: str | Path | None = Field(default=None, description="model that the LoRA adapter is of")

    @field_validator("capabilities")
    @classmethod
    def _are_capabilities(cls, names: list[str] | None) -> list[str] | None:
        return None if names is None else check_capabilities(names)

    @field_validator("user_data")
    @classmethod
    def _is_not_large(cls, data: dict[str, JsonValue]) -> dict[str, JsonValue]:
        size_bytes = _check_json("user_data", data)
        if size_bytes > USER_DATA_BYTES_MAX:
            raise ConfigError(
                f"user_data has {size_bytes} bytes as JSON: at most {USER_DATA_BYTES_MAX}", setting="user_data"
            )
        return data

    @model_validator(mode="after")
    def _agrees(self) -> ModelConfig:
        if self.router_mode and self.router_config and self.router_config.mode is not self.router_mode:
            raise ConfigError(
                f"router_mode is {self.router_mode.value}, and router_config has the mode "
                f"{self.router_config.mode.value}: give one of them",
                setting="router_mode",
            )
        _ = self.advertised_router  # checks it
        if (self.lora_name is None) != (self.base_model_path is None):
            one, other = ("lora_name", "base_model_path") if self.lora_name else ("base_model_path", "lora_name")
            raise ConfigError(f"{one} is given without {other}: a LoRA adapter needs both", setting=other)
        if self.lora_name is not None:
            raise ConfigError(
                f"lora_name is {shown(self.lora_name)}: LoRA adapters cannot be served yet; merge it into its model, "
                "and register that",
                setting="lora_name",
            )
        return self

    @property
    def router(self) -> RouterConfig | None:
        """How requests find the model's workers; None: as the frontend is told."""
        if self.router_config is not None or self.router_mode is None:
            return self.router_config
        return RouterConfig(self.router_mode)

    @property
    def advertised_router(self) -> dict[str, object] | None:
        """The same as the plain object that a card has."""
        return None if self.router is None else advertised(self.router)

    @property
    def runtime_facts(self) -> dict[str, object]:
        """The `runtime_config` as the plain object that a card has."""
        config = self.runtime_config
        return config.said() if isinstance(config, ModelRuntimeConfig) else dict(config)


def _check_json(name: str, value: dict[str, object] | dict[str, JsonValue]) -> int:
    """Return how many bytes a value has as JSON. Raises `ConfigError` if it is none."""
    try:
        json.dumps(value, allow_nan=False)  # msgspec writes null for a number that JSON has not
        return len(msgspec.json.encode(value))
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        raise ConfigError(f"{name} is no object of JSON values: {error}", setting=name) from error

"""Tell the frontends about a model, and serve its engine.

`register_llm` takes an endpoint and a `ModelConfig`, or the arguments of older programs one by one; `register_model`
is the name that today's Dynamo has for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, overload

import msgspec

from dynamo._core.errors import ConfigError, InvalidArgument
from dynamo._core.stability import stable
from dynamo.llm._agreement import Agreement
from dynamo.llm._capabilities import ADVERTISED_ROUTER, check_servable
from dynamo.llm._card_difference import difference
from dynamo.llm._engine import Engine
from dynamo.llm._fetch import default_model_name, fetch_llm
from dynamo.llm._limits import MODEL_CARD_BYTES_MAX
from dynamo.llm._messages import PreprocessedRequest
from dynamo.llm._model_card import ModelCard, ModelInput, ModelType
from dynamo.llm._numbers import shown
from dynamo.llm._registered_here import note_registered, note_unregistered
from dynamo.runtime import Endpoint, ServedEndpoint
from dynamo.runtime._arguments import check_type, wrong_type

if TYPE_CHECKING:
    from pydantic import JsonValue

    from dynamo.llm._kv_router.config import RouterConfig, RouterMode
    from dynamo.llm._model_config import ModelConfig, ModelRuntimeConfig

    RuntimeConfig = ModelRuntimeConfig | Mapping[str, object]

log = logging.getLogger(__name__)

_AGGREGATED = "aggregated"


@overload
async def register_llm(endpoint: Endpoint, config: ModelConfig, /) -> ModelCard: ...
@overload
async def register_llm(*, endpoint: Endpoint, config: ModelConfig) -> ModelCard: ...
@overload
async def register_llm(
    model_input: ModelInput,
    model_type: ModelType,
    endpoint: Endpoint,
    model_path: str | Path,
    model_name: str | None = None,
    context_length: int | None = None,
    kv_cache_block_size: int | None = None,
    router_mode: RouterMode | None = None,
    migration_limit: int | None = None,
    runtime_config: RuntimeConfig | None = None,
    user_data: Mapping[str, JsonValue] | None = None,
    custom_template_path: str | Path | None = None,
    lora_name: str | None = None,
    base_model_path: str | Path | None = None,
) -> ModelCard: ...
@stable(since="0.1")
async def register_llm(
    model_input: ModelInput | Endpoint | None = None,
    model_type: ModelType | ModelConfig | None = None,
    endpoint: Endpoint | None = None,
    model_path: str | Path | None = None,
    model_name: str | None = None,
    context_length: int | None = None,
    kv_cache_block_size: int | None = None,
    router_mode: RouterMode | None = None,
    migration_limit: int | None = None,
    runtime_config: RuntimeConfig | None = None,
    user_data: Mapping[str, JsonValue] | None = None,
    custom_template_path: str | Path | None = None,
    lora_name: str | None = None,
    base_model_path: str | Path | None = None,
    *,
    config: ModelConfig | None = None,
) -> ModelCard:
    """Put the card of a model into discovery: every frontend then serves it through `endpoint`.

    `await register_llm(endpoint, ModelConfig(path="/models/llama"))` is enough for most; what else can be said is in
    `ModelConfig`, and may be given one by one in its place. Returns the card, which lives as long as this process, or
    the lease of the endpoint; registering the model again replaces it. The endpoint may be served before or after: the
    log tells of one that is not served after 10 seconds.

    Raises `NotFound` or `ConfigError`, with the file's name, if there is no model that can be served, and
    `InvalidArgument` if this process serves another model at the endpoint. If workers that serve the model at this
    endpoint differ from this one in what matters, such as the block size or the tokenizer, `ConfigError` has both
    values and the card is gone again; with `ModelConfig(on_conflict="wait")` the log says so instead, and frontends
    send this worker nothing until those are gone. Of workers that come at the same moment one stands. Raises
    `TypeError` for arguments that do not belong together.
    """
    others = {
        "model_path": model_path, "model_name": model_name, "context_length": context_length,
        "kv_cache_block_size": kv_cache_block_size, "router_mode": router_mode, "migration_limit": migration_limit,
        "runtime_config": runtime_config, "user_data": user_data, "custom_template_path": custom_template_path,
        "lora_name": lora_name, "base_model_path": base_model_path,
    }  # fmt: skip
    if isinstance(model_input, Endpoint) or config is not None:
        return await _registered(*_short_form(model_input, model_type, endpoint, config, others))
    if not isinstance(endpoint, Endpoint):
        raise _no_endpoint(endpoint if endpoint is not None else model_input)
    if model_input is None or model_type is None or model_path is None:
        raise TypeError(
            "register_llm takes an endpoint and a ModelConfig, or model_input, model_type, endpoint and model_path"
        )
    return await _registered(endpoint, _long_form(model_input, model_type, others))


@stable(since="0.1")
async def register_model(
    model_input: ModelInput,
    model_type: ModelType,
    endpoint: Endpoint,
    model_path: str | Path,
    model_name: str | None = None,
    *,
    worker_type: str = _AGGREGATED,
    context_length: int | None = None,
    kv_cache_block_size: int | None = None,
    router_mode: RouterMode | None = None,
    router_config: RouterConfig | None = None,
    migration_limit: int | None = None,
    runtime_config: RuntimeConfig | None = None,
    user_data: Mapping[str, JsonValue] | None = None,
    custom_template_path: str | Path | None = None,
    lora_name: str | None = None,
    base_model_path: str | Path | None = None,
    ignore_weights: bool = False,
    tensor_model_config: None = None,
    media_decoder: None = None,
    media_fetcher: None = None,
    needs: Sequence[object] = (),
    self_host_metadata: bool = False,
    max_gpu_lora_count: None = None,
    model_aliases: Sequence[str] = (),
    skip_model_assets: bool = False,
) -> ModelCard:
    """Do what `register_llm` does, with the arguments of Dynamo 1.x.

    A `model_path` that is a name on the hub is fetched first, without its weights if `ignore_weights`. Raises
    `ConfigError` for the arguments that have no meaning here, if they are given: all from `tensor_model_config` on,
    and a `worker_type` other than `"aggregated"`.
    """
    kind = str(getattr(worker_type, "value", worker_type)).lower()
    if kind != _AGGREGATED:
        raise ConfigError(
            f"worker_type is {shown(worker_type)}: only {_AGGREGATED!r} workers, which compute prompts and generate, "
            "can be served",
            setting="worker_type",
        )
    unserved = {
        "tensor_model_config": tensor_model_config, "media_decoder": media_decoder, "media_fetcher": media_fetcher,
        "needs": needs, "self_host_metadata": self_host_metadata, "max_gpu_lora_count": max_gpu_lora_count,
        "model_aliases": model_aliases, "skip_model_assets": skip_model_assets,
    }  # fmt: skip
    for name, value in unserved.items():
        if value:
            raise ConfigError(f"{name} is {shown(value)}: it has no meaning here, leave it out", setting=name)
    if not isinstance(endpoint, Endpoint):
        raise _no_endpoint(endpoint)
    check_type("ignore_weights", ignore_weights, bool, "True or False")
    path = model_path if ignore_weights else await fetch_llm(str(model_path))
    others = {
        "model_path": path, "model_name": model_name or default_model_name(str(model_path)),
        "context_length": context_length, "kv_cache_block_size": kv_cache_block_size, "router_mode": router_mode,
        "router_config": router_config, "migration_limit": migration_limit, "runtime_config": runtime_config,
        "user_data": user_data, "custom_template_path": custom_template_path, "lora_name": lora_name,
        "base_model_path": base_model_path,
    }  # fmt: skip
    return await _registered(endpoint, _long_form(model_input, model_type, others))


@stable(since="0.1")
async def unregister_llm(endpoint: Endpoint, lora_name: str | None = None) -> None:
    """Take the model of this process's `endpoint` out of discovery. One that is not there is no error, but a warning
    in the log.

    Raises `ConfigError` for a `lora_name`, since no adapter can have been registered.
    """
    if not isinstance(endpoint, Endpoint):
        raise _no_endpoint(endpoint)
    if lora_name is not None:
        raise ConfigError(
            f"lora_name is {shown(lora_name)}: no LoRA adapter is registered at {endpoint.id}, for none can be served "
            "yet; leave it out to unregister the model",
            setting="lora_name",
        )
    await endpoint.runtime.discovery.delete(endpoint.id.model_card_key(endpoint.lease_id()))
    if not note_unregistered(endpoint):
        log.warning("this process has no model registered at %s: there was nothing to unregister", endpoint.id)
    endpoint.runtime.exposition.scope_of(endpoint.id).rename(model="")


#: As today's Dynamo calls it.
unregister_model = unregister_llm


@stable(since="0.1")
async def serve_engine(endpoint: Endpoint, engine: Engine) -> ServedEndpoint:
    """Serve an engine at `endpoint`; return when it can be called. Raises `TypeError` for what is no engine."""
    if not isinstance(endpoint, Endpoint):
        raise _no_endpoint(endpoint)
    if isinstance(engine, type):
        raise wrong_type("engine", engine, f"an instance of it, {engine.__name__}(...)")
    if not callable(getattr(engine, "generate", None)):
        raise wrong_type("engine", engine, "an object with generate(request, context)")
    return await endpoint.serve(engine.generate, request_type=PreprocessedRequest)


def _short_form(
    first: object, second: object, endpoint: object, config: object, others: Mapping[str, object]
) -> tuple[Endpoint, ModelConfig]:
    """Read an endpoint and a config, each by its place or its name."""
    from dynamo.llm._model_config import ModelConfig

    at = first if endpoint is None else endpoint
    how = second if config is None else config
    given = [name for name, value in others.items() if value is not None]
    twice = [name for name, pair in (("endpoint", (first, endpoint)), ("config", (second, config))) if None not in pair]
    if given or twice:
        raise TypeError(
            f"register_llm(endpoint, config) takes {', '.join(given + twice)} nowhere else: say it in the ModelConfig"
        )
    if not isinstance(at, Endpoint):
        raise _no_endpoint(at)
    if not isinstance(how, ModelConfig):
        raise TypeError(f"config={shown(how)} is of type {type(how).__name__}: give a ModelConfig")
    return at, how


def _long_form(model_input: object, model_type: object, others: Mapping[str, object]) -> ModelConfig:
    """Read the arguments that were given one by one."""
    from dynamo.llm._model_config import ModelConfig
    from dynamo.llm._plain_model import made_of

    for name in ("model_path", "model_name"):  # the config has other names for them
        if others[name] is not None:
            check_type(name, others[name], (str, Path), "a str")
    named = {name.removeprefix("model_"): value for name, value in others.items() if value is not None}
    fields = {name: dict(value) if isinstance(value, Mapping) else value for name, value in named.items()}
    return made_of(ModelConfig, {"model_input": model_input, "model_type": model_type, **fields})


def _no_endpoint(value: object) -> TypeError:
    return TypeError(
        f"endpoint={shown(value)} is of type {type(value).__name__}: give an Endpoint, such as "
        "runtime.endpoint('namespace.component.endpoint')"
    )


async def _registered(endpoint: Endpoint, config: ModelConfig) -> ModelCard:
    """Register a model, and attach its name to what is measured at the endpoint."""
    card = await _register(endpoint, config)
    note_registered(endpoint, card.display_name)
    endpoint.runtime.exposition.scope_of(endpoint.id).rename(model=card.display_name)
    return card


async def _register(endpoint: Endpoint, config: ModelConfig) -> ModelCard:
    """Put the card there if nobody is in its way."""
    card = await _card_of(config)
    await endpoint.runtime.joined()
    discovery = endpoint.runtime.discovery
    key = endpoint.id.model_card_key(endpoint.lease_id())
    before = (await discovery.get_prefix(key)).get(key)
    agreement = Agreement(endpoint, card)
    if before is not None and _replaces(endpoint, card, ModelCard.from_json(before)):
        await agreement.stand()
        return card
    try:
        if (why := await agreement.settle(before)) is None:
            await agreement.stand()
        elif config.on_conflict == "wait":
            log.error(
                "frontends that know the other workers of the model %r send this one, %x, no requests: %s. Start all "
                "alike; it is used once those that differ from it are gone",
                card.display_name, endpoint.lease_id(), why,
            )  # fmt: skip
            await agreement.wait()
        else:
            raise ConfigError(
                f"the model {card.display_name!r} is not registered, for this worker differs from others at "
                f"{endpoint.id}: {why}. Start all alike (what a dead worker has said is forgotten after a moment), or "
                "have this one wait until they are gone (on_conflict='wait')",
                model=card.display_name,
            )
    except BaseException:
        await agreement.give_up()
        raise
    return card


def _replaces(endpoint: Endpoint, card: ModelCard, before: ModelCard) -> bool:
    """Whether a card may take the place of one that stands, without a look at others. Raises `InvalidArgument`."""
    if before.display_name != card.display_name:
        raise InvalidArgument(
            f"this process serves the model {before.display_name!r} at {endpoint.id}: serve {card.display_name!r} at "
            "another endpoint, or unregister the other one first",
            model=card.display_name,
        )
    return not before.is_settling and not before.waits and difference(card, before, "before") is None


async def _card_of(config: ModelConfig) -> ModelCard:
    """Read the model's files, and check that what the config says can be served. Raises `ConfigError`, `NotFound`."""
    path = await fetch_llm(str(config.path), ignore_weights=True)
    card = await asyncio.to_thread(
        ModelCard.from_local_path,
        path,
        name=config.name if config.name is not None else default_model_name(str(config.path)),
        context_length=config.context_length,
        kv_cache_block_size=config.kv_cache_block_size,
        migration_limit=config.migration_limit,
        model_type=config.model_type or ModelType.Chat | ModelType.Completions,
        model_input=config.model_input,
        runtime_config=config.runtime_facts,
        custom_template_path=config.custom_template_path,
    )
    if config.model_type is None and card.model_input is ModelInput.Tokens and card.chat_template is None:
        log.info("the model %r has no chat template: it is served for completions only", card.display_name)
        card = msgspec.structs.replace(card, model_type=ModelType.Completions)
    card = msgspec.structs.replace(
        card,
        user_data=dict(config.user_data),
        router_config=config.advertised_router,
        capabilities=config.capabilities,
        requires=[] if config.router is None else [ADVERTISED_ROUTER],
    )
    check_servable(card)
    if (size_bytes := len(card.to_json())) > MODEL_CARD_BYTES_MAX:
        raise ConfigError(
            f"the card of the model {card.display_name!r} has {size_bytes} bytes: at most {MODEL_CARD_BYTES_MAX}, "
            "chat templates, runtime_config and user_data together",
            model=card.display_name,
        )
    return card

"""Tell the frontends about a model, and serve its engine."""

from __future__ import annotations

import asyncio

from dynamo._core.errors import InvalidArgument
from dynamo.llm._engine import Engine
from dynamo.llm._messages import PreprocessedRequest
from dynamo.llm._model_card import KV_CACHE_BLOCK_SIZE, MIGRATION_LIMIT, ModelCard, ModelInput, ModelType
from dynamo.runtime import Endpoint, ServedEndpoint


async def register_llm(
    model_input: ModelInput,
    model_type: ModelType,
    endpoint: Endpoint,
    model_path: str,
    model_name: str | None = None,
    *,
    context_length: int | None = None,
    kv_cache_block_size: int = KV_CACHE_BLOCK_SIZE,
    migration_limit: int = MIGRATION_LIMIT,
    runtime_config: dict[str, object] | None = None,
    custom_template_path: str | None = None,
) -> ModelCard:
    """Put the card of a model into discovery: every frontend then serves it through `endpoint`.

    `model_path` is a local model directory and `model_name` what requests call the model (the folder's
    name if not given). The card lives as long as this process, or the lease of the endpoint; registering the
    model again replaces it. Raises `NotFound` or `ConfigError`, with the file's name, if the directory is not
    a model that can be served, and `InvalidArgument` if this process serves another model at the endpoint.
    """
    card = await asyncio.to_thread(
        ModelCard.from_local_path,
        model_path,
        name=model_name,
        context_length=context_length,
        kv_cache_block_size=kv_cache_block_size,
        migration_limit=migration_limit,
        model_type=model_type,
        model_input=model_input,
        runtime_config=runtime_config,
        custom_template_path=custom_template_path,
    )
    runtime = endpoint.runtime
    key = endpoint.id.model_card_key(endpoint.lease_id())
    before = (await runtime.discovery.get_prefix(key)).get(key)
    if before is not None and (other := ModelCard.from_json(before).display_name) != card.display_name:
        raise InvalidArgument(
            f"this process serves the model {other!r} at {endpoint.id}: serve {card.display_name!r} at another "
            "endpoint, or unregister the other one first",
            model=card.display_name,
        )
    await runtime.discovery.put(key, card.to_json(), endpoint.lease)
    return card


async def unregister_llm(endpoint: Endpoint) -> None:
    """Take the model of this process's `endpoint` out of discovery. One that is not there is no error."""
    await endpoint.runtime.discovery.delete(endpoint.id.model_card_key(endpoint.lease_id()))


async def serve_engine(endpoint: Endpoint, engine: Engine) -> ServedEndpoint:
    """Serve an engine at `endpoint`; return when it can be called."""
    return await endpoint.serve(engine.generate, request_type=PreprocessedRequest)

"""Tell the frontends about a model, and serve its engine."""

from __future__ import annotations

import asyncio
import logging

from dynamo._core.address import parse_key
from dynamo._core.errors import DynamoError, InvalidArgument
from dynamo.llm._card_difference import difference
from dynamo.llm._engine import Engine
from dynamo.llm._messages import PreprocessedRequest
from dynamo.llm._model_card import KV_CACHE_BLOCK_SIZE, MIGRATION_LIMIT, ModelCard, ModelInput, ModelType
from dynamo.llm._worker_labels import check_labels
from dynamo.runtime import Endpoint, ServedEndpoint

log = logging.getLogger(__name__)


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
    a model that can be served, or if `taints` or `device_weight` in the `runtime_config` make no sense, and
    `InvalidArgument` if this process serves another model at the endpoint. If other workers of the model differ in
    what matters, such as the block size or the tokenizer, the log says so with both values, here and at the
    frontends, and those send no requests to whoever came later.
    """
    check_labels(runtime_config or {})
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
    await _tell_of_others(endpoint, key, card)
    return card


async def _tell_of_others(endpoint: Endpoint, key: str, card: ModelCard) -> None:
    """Say so if other workers of the model differ from this one, for frontends then refuse the one or the others.

    That is looked at after the card is there: of two workers that come together, one at least sees the other.
    """
    prefix = endpoint.id.model_card_key(0).removesuffix("0")
    try:
        cards = await endpoint.runtime.discovery.get_prefix(prefix)
    except DynamoError as error:  # the model is registered; the frontends look for themselves
        log.warning("discovery does not say whether other workers of the model %r differ: %s", card.display_name, error)
        return
    for other_key, value in cards.items():
        if other_key == key:
            continue
        try:
            other, (_, id) = ModelCard.from_json(value), parse_key(other_key)
        except DynamoError:
            continue  # it is nobody's worker
        if other.display_name == card.display_name and (why := difference(card, other, f"worker {id:x}")):
            log.error(
                "frontends that know the other workers of the model %r send this one, %x, no requests: %s. Start all "
                "alike; it is used once those that differ from it are gone",
                card.display_name, endpoint.lease_id(), why,
            )  # fmt: skip
            return


async def unregister_llm(endpoint: Endpoint) -> None:
    """Take the model of this process's `endpoint` out of discovery. One that is not there is no error."""
    await endpoint.runtime.discovery.delete(endpoint.id.model_card_key(endpoint.lease_id()))


async def serve_engine(endpoint: Endpoint, engine: Engine) -> ServedEndpoint:
    """Serve an engine at `endpoint`; return when it can be called."""
    return await endpoint.serve(engine.generate, request_type=PreprocessedRequest)

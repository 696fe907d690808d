"""How many blocks the prefix cache of a model has: as many as the user says, or a share of the memory."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

from transformers import PreTrainedConfig

from dynamo._core.errors import ConfigError
from dynamo.transformers._loading import LoadedModel

#: How much of the memory for keys and values the blocks get, if the user does not say how many.
BLOCKS_SHARE = 0.25
#: And so many tokens at most: far more than small models, whose tokens take little memory, have any use for.
BLOCK_TOKENS_MAX = 1 << 20

log = logging.getLogger(__name__)


def num_kv_blocks(loaded: LoadedModel, block_size: int, wanted: int | None) -> int:
    """Return how many blocks there are; 0 if the model cannot reuse prefixes, which the log explains.

    What the blocks do not take is for the requests that run, and one of them as long as the context must have room.
    Raises `ConfigError` if `wanted` leaves less.
    """
    if block_size < 1:
        raise ConfigError(f"kv_cache_block_size={block_size} must be 1 or more")
    if wanted is not None and wanted < 1:
        raise ConfigError(f"num_kv_blocks={wanted} must be 1 or more; disable prefix caching to have none")
    if (rope_type := _length_dependent_rope(loaded)) is not None:
        log.warning(
            "prefix caching is off: with its %r position embeddings, what the model computes for the beginning of a "
            "long prompt is not what it computes for a short one",
            rope_type,
        )
        return 0
    room = (loaded.kv_cells_max - loaded.max_context_length) // block_size
    if wanted is None:
        fitting = min(room, int(loaded.kv_cells_max * BLOCKS_SHARE) // block_size, BLOCK_TOKENS_MAX // block_size)
        if fitting < 1:
            log.warning("prefix caching is off: memory for keys and values holds one context, and no blocks besides")
        return max(0, fitting)
    if wanted > room:
        raise ConfigError(
            f"num_kv_blocks={wanted} of {block_size} tokens do not fit: of the {loaded.kv_cells_max:,} tokens that "
            f"there is memory for, one request takes up to {loaded.max_context_length:,}, which leaves {max(0, room)} "
            "blocks; lower num_kv_blocks or the context length"
        )
    return wanted


def _length_dependent_rope(loaded: LoadedModel) -> str | None:
    """Return the kind of rotary embedding whose frequencies change within the model's context, if it has one.

    (`dynamic` ones do so only beyond the positions of the model, which no request has.)
    """
    for parameters in _rope_parameters(loaded.model.config):
        limit = parameters.get("original_max_position_embeddings")
        if parameters.get("rope_type") == "longrope" and isinstance(limit, int) and limit < loaded.max_context_length:
            return "longrope"
    return None


def _rope_parameters(config: PreTrainedConfig) -> Iterator[Mapping[str, object]]:
    """Yield the parameters of each rotary embedding: some models have one for each type of layer."""
    parameters = getattr(config.get_text_config(decoder=True), "rope_parameters", None)
    if isinstance(parameters, Mapping):
        yield parameters
        yield from (each for each in parameters.values() if isinstance(each, Mapping))

"""Hashes of a prompt's KV blocks, under the name and with the arguments that routers and publishers know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import msgspec

from dynamo._core._token_words import TokenIds
from dynamo._core.blocks import block_hash_list
from dynamo._core.errors import InvalidArgument
from dynamo._core.stability import stable
from dynamo.llm._kv_arguments import check_block_size, check_text_or_none, check_tokens


class MmObject(TypedDict):
    """An image or another medium in a block: its hash, and the token ranges that it covers."""

    mm_hash: int
    offsets: Sequence[tuple[int, int]]


class BlockMmInfo(TypedDict):
    """The media in a block."""

    mm_objects: Sequence[MmObject]


@stable(since="0.1")
def compute_block_hash_for_seq(
    tokens: TokenIds,
    kv_block_size: int,
    block_mm_infos: Sequence[BlockMmInfo | None] | None = None,
    lora_name: str | None = None,
    is_eagle: bool | None = None,
    cache_namespace: str | None = None,
) -> list[int]:
    """Return the hash of each full block of `tokens` by itself (its "tokens hash"), in order.

    `tokens` are integers in a list, or in a buffer of 32 or 64 bits each, which is several times faster: `array("I")`,
    a memoryview, an ndarray. `block_mm_infos` has one entry per block, None where there are no media, or is left out;
    hashes of some blocks with their media and of others without would match what they must not.
    `lora_name` and `cache_namespace` (a tenant's salt) change all hashes, and an empty one is none; with `is_eagle` a
    block's hash also covers the first token behind it. The values are those of Dynamo 1.6: XXH3-64 of the block's
    tokens as little-endian u32, with a seed that begins at 1337 (`dynamo/_core/blocks.py`).

    Raises `InvalidArgument`, which names the position of a token that is not from 0 to 2**32 - 1, and the parameter
    whose value is of another kind.
    """
    check_tokens("tokens", tokens)
    check_block_size("kv_block_size", kv_block_size)
    check_text_or_none("lora_name", lora_name)
    check_text_or_none("cache_namespace", cache_namespace)
    return block_hash_list(
        tokens, kv_block_size,
        lora_name=lora_name, cache_namespace=cache_namespace, is_eagle=bool(is_eagle),
        mm_hashes=mm_hashes_of(block_mm_infos),
    )  # fmt: skip


def mm_hashes_of(infos: Sequence[BlockMmInfo | None] | None) -> list[list[int]] | None:
    """Return the hashes of the media in each block. Raises `InvalidArgument` for what is no list of that."""
    if infos is None:
        return None
    try:
        checked = msgspec.convert(infos, list[BlockMmInfo | None])
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"block_mm_infos: {error}") from error
    return [[one["mm_hash"] for one in info["mm_objects"]] if info else [] for info in checked]

"""Token blocks: the unit in which KV cache is stored, matched and moved.

Only full blocks have hashes: a partial block cannot be shared. There are two kinds. The *tokens hash* of a block is
XXH3-64 of its token ids as little-endian u32: equal tokens, equal hash, whatever stands before them. The *block hash*
(or sequence hash) chains a block to all before it: equal block hashes mean equal prefixes. A LoRA adapter, a cache
namespace (a tenant's salt) and the hashes of images in a block change the hash, as they change what is cached.
The values are those of Dynamo 1.6, so that publishers and routers of both systems understand each other.

Eight thousand tokens are hashed for each request, on the event loop: the speed of this file is latency of everybody.
"""

from __future__ import annotations

import operator
import struct
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain, repeat
from typing import NamedTuple, TypeAlias

from xxhash import xxh3_64_intdigest

from dynamo._core._token_words import WORD_BYTES, TokenIds, token_words
from dynamo._core.errors import InvalidArgument

#: Hashes in an array of type "Q".
BlockHashes: TypeAlias = "array[int]"

_SEED = 1337
_NAMESPACE_SEED = 1
_BLOCKS_AT_ONCE = 64
_pack_pair = struct.Struct("<QQ").pack


def block_hashes(
    token_ids: TokenIds,
    block_size: int,
    *,
    lora_name: str | None = None,
    cache_namespace: str | None = None,
    mm_hashes: Sequence[Sequence[int]] | None = None,
    is_eagle: bool = False,
) -> BlockHashes:
    """Return the tokens hash of each full block, in order; see `block_hash_list`."""
    return array("Q", block_hash_list(
        token_ids, block_size,
        lora_name=lora_name, cache_namespace=cache_namespace, mm_hashes=mm_hashes, is_eagle=is_eagle,
    ))  # fmt: skip


def block_hash_list(
    token_ids: TokenIds,
    block_size: int,
    *,
    lora_name: str | None = None,
    cache_namespace: str | None = None,
    mm_hashes: Sequence[Sequence[int]] | None = None,
    is_eagle: bool = False,
) -> list[int]:
    """Return the tokens hash of each full block, in order.

    `mm_hashes` are the hashes of the images and other media in each block: all blocks have an entry, of which many
    are empty, or none has. With `is_eagle` a block's hash also covers the first token after it, which that kind of
    speculative decoding needs, and a block is full once this token is there.
    Raises `InvalidArgument`, which names the position of a token that is no u32.
    """
    _check_block_size(block_size)
    words, seed = token_words(token_ids), _seed(lora_name, cache_namespace)
    if mm_hashes:
        return _hashes_with_media(words, block_size, seed, is_eagle, mm_hashes)
    return _hashes(words, block_size, seed, is_eagle)


def sequence_hashes(hashes: Iterable[int], parent: int | None = None) -> BlockHashes:
    """Chain tokens hashes into block hashes; `parent` is the block hash of the block before the first, if any."""
    blocks = iter(hashes)
    try:
        first = next(blocks, None)
        if first is None:
            return array("Q")
        current = first if parent is None else xxh3_64_intdigest(_pack_pair(parent, first), _SEED)
        chained = [current]
        append = chained.append
        # 44 us for 512 blocks. `itertools.accumulate` takes 7 us more, and digests of slices of the result 25 us more.
        for block in blocks:
            current = xxh3_64_intdigest(_pack_pair(current, block), _SEED)
            append(current)
        return array("Q", chained)
    except (struct.error, OverflowError, TypeError) as error:
        raise InvalidArgument(f"hashes of blocks are integers from 0 to 2**64 - 1: {error}") from error


class FullBlocks(NamedTuple):
    """Blocks of a sequence that have become full, and the block before them: what an engine tells its listeners."""

    parent_hash: int | None
    block_hashes: BlockHashes
    tokens_hashes: BlockHashes


class BlockHasher:
    """Hashes a sequence that grows, each block once: when it has become full.

    It keeps the tokens of the block that is not full yet, and nothing else.
    """

    def __init__(
        self,
        block_size: int,
        *,
        lora_name: str | None = None,
        cache_namespace: str | None = None,
    ) -> None:
        _check_block_size(block_size)
        self._block_size = block_size
        self._seed = _seed(lora_name, cache_namespace)
        # What changes: the tokens behind the last full block, as words, and that block's hash.
        self._words = b""
        self._parent_hash: int | None = None

    def extend(self, token_ids: TokenIds) -> FullBlocks | None:
        """Append tokens. Returns the blocks that are full now and were not before; None if there is none."""
        words = self._words + token_words(token_ids)
        tokens_hashes = array("Q", _hashes(words, self._block_size, self._seed, is_eagle=False))
        if not tokens_hashes:
            self._words = words
            return None
        full = FullBlocks(self._parent_hash, sequence_hashes(tokens_hashes, self._parent_hash), tokens_hashes)
        self._words = words[len(tokens_hashes) * self._block_size * WORD_BYTES :]
        self._parent_hash = full.block_hashes[-1]
        return full


def _check_block_size(block_size: int) -> None:
    if type(block_size) is not int or block_size < 1:
        raise InvalidArgument(f"a KV block has at least one token; block_size is {block_size!r}")


def _seed(lora_name: str | None, cache_namespace: str | None) -> int:
    """Return the seed of tokens hashes; an empty name is none."""
    seed = _SEED
    try:
        if lora_name:
            seed += xxh3_64_intdigest(lora_name.encode(), 0)
        if cache_namespace:
            seed += xxh3_64_intdigest(cache_namespace.encode(), _NAMESPACE_SEED)
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"{error.object!r} names no LoRA adapter or cache namespace: {error.reason}") from error
    return seed % 2**64


def _hashes(words: bytes, block_size: int, seed: int, is_eagle: bool) -> list[int]:
    blocks = _windows(words, block_size) if is_eagle else _blocks(words, block_size)
    # Calls from C, one per block: 2.7 ns/token, where a comprehension over slices takes 6.
    return list(map(xxh3_64_intdigest, blocks, repeat(seed)))


def _hashes_with_media(
    words: bytes, block_size: int, seed: int, is_eagle: bool, mm_hashes: Sequence[Sequence[int]]
) -> list[int]:
    blocks = list(_windows(words, block_size) if is_eagle else _blocks(words, block_size))
    # The block that is not full may have an entry too. Any other number means that entries and blocks are not
    # aligned, and hashes of the wrong images would make one prompt find the cache of another.
    num_begun = -(-len(words) // (block_size * WORD_BYTES))
    if len(mm_hashes) not in (len(blocks), num_begun):
        raise InvalidArgument(f"mm_hashes has {len(mm_hashes)} entries for {len(blocks)} full blocks; give each one")
    media = map(_media_bytes, range(len(mm_hashes)), mm_hashes)
    return list(map(xxh3_64_intdigest, map(operator.add, blocks, media), repeat(seed)))


def _media_bytes(position: int, hashes: Sequence[int]) -> bytes:
    try:
        return struct.pack(f"<{len(hashes)}Q", *sorted(hashes))
    except (struct.error, TypeError) as error:
        raise InvalidArgument(f"mm_hashes of block {position} are not integers from 0 to 2**64 - 1: {error}") from error


def _blocks(words: bytes, block_size: int) -> Iterator[bytes]:
    """Cut words into full blocks."""
    block_bytes = block_size * WORD_BYTES
    if len(words) < block_bytes:
        return iter(())
    one, many = _cutters(block_bytes)
    end = len(words) // block_bytes * block_bytes
    tail = end // many.size * many.size
    view = memoryview(words)
    return chain.from_iterable(chain(many.iter_unpack(view[:tail]), one.iter_unpack(view[tail:end])))


@lru_cache(maxsize=16)
def _cutters(block_bytes: int) -> tuple[struct.Struct, struct.Struct]:
    # One tuple per block would cost 2 ns/token more; one tuple of all blocks leaves the CPU's cache when prompts are
    # long, which costs as much.
    block = f"{block_bytes}s"
    return struct.Struct(block), struct.Struct(block * _BLOCKS_AT_ONCE)


def _windows(words: bytes, block_size: int) -> Iterator[bytes]:
    """Cut words into full blocks, each with the token behind it."""
    step = block_size * WORD_BYTES
    size = step + WORD_BYTES
    return (words[start : start + size] for start in range(0, len(words) - size + 1, step))

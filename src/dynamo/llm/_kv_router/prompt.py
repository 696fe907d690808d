"""A prompt as the router sees it: how long it is, the hashes of its blocks, and checkpoints along them.

A checkpoint is a digest of all blocks up to some depth: two prompts that have it in common agree that far. There is
one behind each of the first blocks and fewer further on, so that what requests share is known to a fifth.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise

from xxhash import xxh3_64

from dynamo._core.blocks import block_hash_list
from dynamo.llm._routing import Asked

_TWICE = tuple(16 << times for times in range(14))
#: After so many checkpoints, so many blocks: one by one up to 16, and then four times until it is twice as many, which
#: is 36 of them for eight thousand tokens in blocks of 16. Blocks behind the last one are nobody else's.
DEPTHS: tuple[int, ...] = (*range(16), *(begin + begin * step // 4 for begin in _TWICE for step in range(4)))
_NO_HASHES: list[int] = []


class Prompt:
    """The tokens of a request, for a router of one block size."""

    __slots__ = ("_checkpoints", "block_size", "num_blocks", "num_tokens", "tokens_hashes")

    def __init__(self, num_tokens: int, block_size: int, tokens_hashes: list[int]) -> None:
        self.num_tokens: int = num_tokens
        self.block_size: int = block_size
        #: Blocks that it needs in a cache: the last one may be part of one.
        self.num_blocks: int = -(-num_tokens // block_size)
        self.tokens_hashes: list[int] = tokens_hashes
        self._checkpoints: list[int] | None = None

    @classmethod
    def of(cls, asked: Asked, block_size: int) -> Prompt:
        """Hash the prompt of a request; one that the router is not told has no tokens."""
        token_ids = asked.token_ids
        if token_ids is None:
            return cls(0, block_size, _NO_HASHES)
        hashes = block_hash_list(
            token_ids, block_size,
            lora_name=asked.lora_name, cache_namespace=asked.cache_namespace, mm_hashes=asked.mm_hashes,
        )  # fmt: skip
        return cls(len(token_ids), block_size, hashes)

    @classmethod
    def heard(cls, num_tokens: int, block_size: int, checkpoints: list[int]) -> Prompt:
        """Return a prompt that another router has told of: its load counts, its blocks cannot be looked for."""
        prompt = cls(num_tokens, block_size, _NO_HASHES)
        prompt._checkpoints = checkpoints
        return prompt

    @property
    def num_cacheable_blocks(self) -> int:
        """How many blocks can be found in a cache: an engine always computes the last token."""
        hashes = self.tokens_hashes
        return len(hashes) - 1 if len(hashes) == self.num_blocks and hashes else len(hashes)

    @property
    def checkpoints(self) -> list[int]:
        """The digests of its full blocks up to each of `DEPTHS`."""
        if self._checkpoints is None:
            self._checkpoints = digests(self.tokens_hashes)
        return self._checkpoints


def digests(tokens_hashes: Sequence[int]) -> list[int]:
    """Return the digest of all blocks up to each checkpoint."""
    words = memoryview(array("Q", tokens_hashes))
    digest = xxh3_64()
    update, value = digest.update, digest.intdigest
    found: list[int] = []
    for begin, end in pairwise(DEPTHS[: bisect_right(DEPTHS, len(words))]):
        update(words[begin:end])
        found.append(value())
    return found

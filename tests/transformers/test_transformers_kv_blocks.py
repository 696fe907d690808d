"""Keys and values that are copied into blocks and out of them, wherever the blocks are."""

from __future__ import annotations

import random

import pytest
import torch
from tests.transformers.models import ARCHITECTURES

from dynamo.transformers._kv_blocks import KvBlocks
from dynamo.transformers._kv_cache import RowsCache

BLOCK_SIZE, NUM_BLOCKS = 4, 12
CONFIG = ARCHITECTURES["some layers slide"]


def filled(num_rows: int, num_columns: int, seed: int) -> RowsCache:
    """A cache of random numbers."""
    cache, generator = RowsCache(CONFIG), torch.Generator().manual_seed(seed)
    for layer in cache.rows_layers():
        layer.update(*(torch.randn(num_rows, 1, num_columns, 16, generator=generator) for _ in range(2)))
    return cache


def columns(cache: RowsCache, row: int, begin: int, end: int) -> torch.Tensor:
    return torch.stack([part for layer in cache.rows_layers() for part in layer.columns(row, begin, end)])


@pytest.mark.parametrize("places", [[3, 4, 5], [5, 4, 3], [0, 7, 11], [9]], ids=str)
@pytest.mark.parametrize("missing", [0, 1, 3])
def test_what_is_read_is_what_was_written(places: list[int], missing: int) -> None:
    blocks, source, into = KvBlocks(NUM_BLOCKS, BLOCK_SIZE), filled(3, 30, seed=1), RowsCache(CONFIG)
    num_tokens = len(places) * BLOCK_SIZE - missing
    blocks.write(places, source, 1, 7)
    blocks.open(2, 20, into)
    blocks.read(places, into, 1, 20 - num_tokens, 20)
    assert torch.equal(columns(into, 1, 20 - num_tokens, 20), columns(source, 1, 7, 7 + num_tokens))
    assert into.width == 20
    assert not columns(into, 1, 0, 20 - num_tokens).any(), "what is not filled is padding"
    assert not columns(into, 0, 0, 20).any()


def test_writing_a_block_leaves_the_others_as_they_are() -> None:
    blocks, rng, expected = KvBlocks(NUM_BLOCKS, BLOCK_SIZE), random.Random(0), dict[int, torch.Tensor]()
    for seed in range(20):
        places, source = rng.sample(range(NUM_BLOCKS), rng.randint(1, 4)), filled(1, 40, seed)
        blocks.write(places, source, 0, 3)
        for index, place in enumerate(places):
            begin = 3 + index * BLOCK_SIZE
            expected[place] = columns(source, 0, begin, begin + BLOCK_SIZE).clone()
    everything = RowsCache(CONFIG)
    blocks.open(1, len(expected) * BLOCK_SIZE, everything)
    blocks.read(list(expected), everything, 0, 0, everything.width)
    assert torch.equal(columns(everything, 0, 0, everything.width), torch.cat(list(expected.values()), dim=2))

"""The keys and values in blocks: copied out of the rows that computed them, and into rows that begin as those did.

Each layer has one tensor of keys and one of values, `[heads, places * block_size, dim]`: a block is `block_size`
columns of it, as they stand in a row. So it takes one call per tensor to copy any number of blocks, wherever they are,
and a faster one if they are side by side, as most are that were kept together.
Layers with a sliding window are like the others, since rows keep all of their columns, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch

from dynamo.transformers._kv_cache import RowsCache, RowsLayer


class KvBlocks:
    """Room for so many blocks. Memory is taken when the first one is written, which shows what the layers are like."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self._num_blocks = num_blocks
        self._block_size = block_size
        # Of each layer of a cache, in its order: keys and values; None for a layer that the model does not use.
        self._layers: list[tuple[torch.Tensor, torch.Tensor] | None] = []

    def write(self, places: Sequence[int], cache: RowsCache, row: int, column: int) -> None:
        """Fill blocks with what a row has from a column on."""
        if not self._layers:
            self._layers = [self._room_for(layer) for layer in cache.rows_layers()]
        columns = self._columns(places)
        end = column + len(places) * self._block_size
        for layer, *rooms in self._in_use(cache):
            for room, part in zip(rooms, layer.columns(row, column, end), strict=True):
                if isinstance(columns, slice):
                    room[:, columns] = part
                else:
                    room.index_copy_(1, columns, part)

    def open(self, num_rows: int, num_columns: int, cache: RowsCache) -> None:
        """Give an empty cache so many rows and columns, for `read` to fill; what it does not fill is padding."""
        for layer, keys, values in self._in_use(cache):
            layer.open(keys[None], values[None], num_rows, num_columns)

    def read(self, places: Sequence[int], cache: RowsCache, row: int, begin: int, end: int) -> None:
        """Fill these columns of a row with what is in the blocks; of the last one, perhaps, with a part."""
        columns = self._columns(places)
        for layer, *rooms in self._in_use(cache):
            for room, part in zip(rooms, layer.columns(row, begin, end), strict=True):
                found = room[:, columns] if isinstance(columns, slice) else room.index_select(1, columns)
                part.copy_(found[:, : end - begin])

    def _room_for(self, layer: RowsLayer) -> tuple[torch.Tensor, torch.Tensor] | None:
        if layer.keys is None or layer.values is None:
            return None
        num_columns = self._num_blocks * self._block_size
        keys, values = (
            each.new_empty((each.shape[1], num_columns, each.shape[3])) for each in (layer.keys, layer.values)
        )
        return keys, values

    def _in_use(self, cache: RowsCache) -> Iterator[tuple[RowsLayer, torch.Tensor, torch.Tensor]]:
        for layer, room in zip(cache.rows_layers(), self._layers, strict=True):
            if room is not None:
                yield layer, *room

    def _columns(self, places: Sequence[int]) -> torch.Tensor | slice:
        """Return the columns of these blocks."""
        if all(after == before + 1 for before, after in pairwise(places)):
            return slice(places[0] * self._block_size, (places[-1] + 1) * self._block_size)
        device = next(room[0].device for room in self._layers if room is not None)
        first = torch.tensor(places, device=device)[:, None] * self._block_size
        return (first + torch.arange(self._block_size, device=device)).flatten()

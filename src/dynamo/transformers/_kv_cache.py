"""The KV cache of a batch whose rows come and go.

Rows end in the same column, so that a step of the whole batch writes one column and the library's own
masks (left padding, sliding windows) hold as they are:

    row 0   . . . . a b c d
    row 1   . . e f g h i j        (. is padding: masked, and always zero)

A row joins by being copied in, and leaves by being overwritten with the last row. Every layer keeps
all columns, also those outside of a sliding window: the mask hides them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import Cache, DynamicCache, PreTrainedConfig
from transformers.cache_utils import CacheLayerMixin, DummyLayer, DynamicLayer, DynamicSlidingWindowLayer

from dynamo._core.errors import ConfigError

#: Columns that a growing buffer gets beyond what it needs now, besides a quarter of its width.
SPARE_COLUMNS = 64


class RowsLayer(CacheLayerMixin):
    """The keys and values of one layer; `keys` and `values` are buffers larger than what is in use."""

    is_sliding = False
    keys: torch.Tensor | None
    values: torch.Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.num_rows = 0
        # The columns in use are start..end-1.
        self.start = 0
        self.end = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.keys = _empty_like(key_states)
        self.values = _empty_like(value_states)
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append columns to every row, and return all keys and values."""
        rows, columns = key_states.shape[0], key_states.shape[2]
        self._make_room(key_states, value_states, rows=rows, right=columns)
        self.num_rows = rows
        for buffer, states in zip(self._buffers(), (key_states, value_states), strict=True):
            buffer[:rows, :, self.end : self.end + columns] = states
        self.end += columns
        keys, values = (buffer[:rows, :, self.start : self.end] for buffer in self._buffers())
        return keys, values

    def absorb(self, other: RowsLayer, lengths: Sequence[int]) -> None:
        """Append the rows of `other`, whose last `lengths[row]` columns are not padding."""
        if not other.is_initialized:
            return
        keys, values = other._buffers()
        width = self.get_seq_length()
        widened = max(width, *lengths)
        self._make_room(keys, values, rows=self.num_rows + len(lengths), left=widened - width)
        for buffer, source in zip(self._buffers(), (keys, values), strict=True):
            buffer[:, :, self.end - widened : self.start] = 0
            for row, length in enumerate(lengths):
                buffer[self.num_rows + row, :, : self.end - length] = 0
                buffer[self.num_rows + row, :, self.end - length : self.end] = source[
                    row, :, other.end - length : other.end
                ]
        self.start = self.end - widened
        self.num_rows += len(lengths)

    def open(self, keys: torch.Tensor, values: torch.Tensor, num_rows: int, num_columns: int) -> None:
        """Begin with so many rows and columns of zeros, whose heads are like those of `keys` and `values`."""
        assert not self.is_initialized
        self._make_room(keys, values, rows=num_rows, right=num_columns)
        self.num_rows = num_rows
        self.end += num_columns

    def columns(self, row: int, begin: int, end: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return some columns of a row, `[heads, columns, dim]`, to read or to write; those in use begin with 0."""
        assert self.keys is not None
        assert self.values is not None
        begin, end = self.start + begin, self.start + end
        return self.keys[row, :, begin:end], self.values[row, :, begin:end]

    def remove(self, row: int, width: int) -> None:
        """Move the last row into the place of `row`; the rows that are left need `width` columns."""
        if not self.is_initialized:
            return
        self.num_rows -= 1
        if self.num_rows == 0:
            self.reset()
            return
        for buffer in self._buffers():
            buffer[row, :, self.start : self.end] = buffer[self.num_rows, :, self.start : self.end]
        self.start = self.end - width

    def reset(self) -> None:
        """Forget every row, and give the memory back."""
        self.keys = self.values = None
        self.is_initialized = False
        self.num_rows = self.start = self.end = 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        return self.end - self.start

    def get_max_length(self) -> int:
        return -1

    def cell_bytes(self) -> int:
        """Return the bytes that one token of one row takes."""
        if not self.is_initialized:
            return 0
        return sum(buffer.element_size() * buffer.shape[1] * buffer.shape[3] for buffer in self._buffers())

    def _buffers(self) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    def _make_room(self, keys: torch.Tensor, values: torch.Tensor, *, rows: int, left: int = 0, right: int = 0) -> None:
        """Have space for `rows` rows, and for so many columns before `start` and after `end`."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        capacity_rows, _, capacity_columns, _ = self._buffers()[0].shape
        if rows <= capacity_rows and left <= self.start and self.end + right <= capacity_columns:
            return
        width = self.get_seq_length()
        if rows > capacity_rows:
            capacity_rows = max(rows, min(2 * capacity_rows, rows + rows // 2))
        columns = left + width + right
        columns += SPARE_COLUMNS + columns // 4
        moved = []
        for buffer in self._buffers():
            new = buffer.new_zeros((capacity_rows, buffer.shape[1], columns, buffer.shape[3]))
            new[: self.num_rows, :, left : left + width] = buffer[: self.num_rows, :, self.start : self.end]
            moved.append(new)
        self.keys, self.values = moved
        self.start, self.end = left, left + width


class RowsCache(Cache):
    """The KV cache of all layers of a model."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(layers=[_rows_layer(layer) for layer in DynamicCache(config=config).layers])

    @property
    def width(self) -> int:
        """The number of columns in use."""
        return max((layer.get_seq_length() for layer in self.rows_layers()), default=0)

    def absorb(self, other: RowsCache, lengths: Sequence[int]) -> None:
        """Append the rows of `other`, whose last `lengths[row]` columns are not padding."""
        for mine, theirs in zip(self.rows_layers(), other.rows_layers(), strict=True):
            mine.absorb(theirs, lengths)

    def remove(self, row: int, width: int) -> None:
        """Move the last row into the place of `row`; the rows that are left need `width` columns."""
        for layer in self.rows_layers():
            layer.remove(row, width)

    def cell_bytes(self) -> int:
        """Return the bytes that one token of one row takes in all layers; known after a first forward."""
        return sum(layer.cell_bytes() for layer in self.rows_layers())

    def rows_layers(self) -> list[RowsLayer]:
        """Return the layers that keep keys and values."""
        return [layer for layer in self.layers if isinstance(layer, RowsLayer)]


def _rows_layer(layer: object) -> RowsLayer | DummyLayer:
    """Return the layer that stands in for one of the library's."""
    if isinstance(layer, DummyLayer):
        return layer
    if type(layer) in (DynamicLayer, DynamicSlidingWindowLayer):
        return RowsLayer()
    raise ConfigError(
        f"this model keeps a state other than keys and values ({type(layer).__name__}), "
        "which the transformers engine does not batch: serve it with another engine"
    )


def _empty_like(states: torch.Tensor) -> torch.Tensor:
    return states.new_zeros((0, states.shape[1], 0, states.shape[3]))

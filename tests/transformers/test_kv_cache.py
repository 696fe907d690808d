"""The KV cache of a changing batch, compared with plain lists of tensors."""

from __future__ import annotations

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dynamo.transformers._kv_cache import RowsLayer

HEADS, DIM = 2, 3


class Batch(RuleBasedStateMachine):
    """Rows join, grow by a column, and leave; `rows` is what the layer must hold, without padding."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = RowsLayer()
        self.rows: list[torch.Tensor] = []
        self.counter = 0.0

    def fresh(self, rows: int, columns: int) -> torch.Tensor:
        """Numbers that were never used before."""
        size = rows * HEADS * columns * DIM
        numbers = torch.arange(self.counter + 1, self.counter + 1 + size)
        self.counter += size
        return numbers.reshape(rows, HEADS, columns, DIM)

    @rule(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4))
    def join(self, lengths: list[int]) -> None:
        width = max(lengths)
        states = self.fresh(len(lengths), width)
        other = RowsLayer()
        other.update(states, -states)
        self.layer.absorb(other, lengths)
        self.rows += [states[row, :, width - length :] for row, length in enumerate(lengths)]

    @precondition(lambda self: self.rows)
    @rule()
    def grow(self) -> None:
        states = self.fresh(len(self.rows), 1)
        keys, values = self.layer.update(states, -states)
        self.rows = [torch.cat([row, states[index]], dim=1) for index, row in enumerate(self.rows)]
        assert torch.equal(keys, -values)
        assert torch.equal(keys, padded(self.rows))

    @precondition(lambda self: self.rows)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        row = data.draw(st.integers(0, len(self.rows) - 1))
        self.rows[row] = self.rows[-1]
        self.rows.pop()
        self.layer.remove(row, max((each.shape[1] for each in self.rows), default=0))

    @invariant()
    def it_is_as_wide_as_its_longest_row(self) -> None:
        assert self.layer.num_rows == len(self.rows)
        assert self.layer.get_seq_length() == max((row.shape[1] for row in self.rows), default=0)

    @invariant()
    def an_empty_batch_holds_no_memory(self) -> None:
        assert bool(self.rows) == (self.layer.keys is not None)


def padded(rows: list[torch.Tensor]) -> torch.Tensor:
    width = max(row.shape[1] for row in rows)
    return torch.stack([torch.nn.functional.pad(row, (0, 0, width - row.shape[1], 0)) for row in rows])


Batch.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestBatch = Batch.TestCase

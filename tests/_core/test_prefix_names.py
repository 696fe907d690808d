"""The table of names: it finds the runs of a name, and small numbers are told apart in it as hashes are."""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo._core._prefix_names import NameTable
from dynamo._core.prefix_index import PrefixIndex, WorkerKey

names = st.integers(0, 5)
changes = st.lists(st.tuples(names, st.integers(0, 3), st.integers(0, 3)), max_size=40)


@given(changes=changes)
def test_names_of_several_runs_are_found_whatever_is_added_moved_and_discarded(
    changes: list[tuple[int, int, int]],
) -> None:
    table, held = NameTable(64), Counter[tuple[int, int]]()
    for name, run_id, to_id in changes:
        if not held[name, run_id]:
            table.add((name,), run_id)
            held[name, run_id] += 1
            continue
        held[name, run_id] -= 1
        if run_id == to_id:
            table.discard((name,), run_id)
        else:
            table.move((name,), run_id, to_id)
            held[name, to_id] += 1
    held = +held
    for name in range(6):
        assert table.candidates(name) == sorted({run_id for its_name, run_id in held if its_name == name})
        assert table.has_any((name,)) == any(name == its_name for its_name, _ in held)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(lambda at: at, id="1, 2, 3"),
        pytest.param(lambda at: at << 24, id="in the upper bits"),
        pytest.param(lambda at: at << 32, id="in the uppermost bits"),
        pytest.param(lambda at: 0x7F00_0000_0000 + 64 * at, id="as addresses are"),
        pytest.param(lambda at: -at % (1 << 64), id="from the largest one down"),
        pytest.param(random.Random(2).sample(range(1 << 32), 60_001).__getitem__, id="of 32 bits"),
    ],
)
def test_numbers_that_are_no_hashes_are_told_apart_as_hashes_are(name: Callable[[int], int]) -> None:
    """Names that are not told apart would cost an entry of their own each, and make a run of each block."""
    chance, index = random.Random(1), PrefixIndex(blocks_max=1 << 16)
    for first in range(1, 60_001, 500):
        block_hashes = array("Q", map(name, range(first, first + 500)))
        tokens_hashes = array("Q", chance.randbytes(8 * 500))
        assert index.store(WorkerKey(1), None, block_hashes, tokens_hashes).applied == 500
    assert index.num_runs == 120
    assert index.num_names == index.num_blocks == 60_000

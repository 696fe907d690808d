"""An index that counts what it is told, and is otherwise like any."""

from __future__ import annotations

from dynamo._core.prefix_index import WorkerKey
from dynamo.llm._kv_counted_index import CountedIndex

ONE = WorkerKey(1)


def test_each_kind_of_event_is_counted_whether_it_fits_or_not() -> None:
    index = CountedIndex()
    index.store(ONE, None, [1, 2], [10, 20])
    index.store(ONE, 99, [3], [30])
    index.remove(ONE, [2])
    index.clear(ONE)
    assert index.events == {"stored": 2, "removed": 1, "cleared": 1}


def test_a_worker_that_leaves_has_not_cleared_its_cache() -> None:
    index = CountedIndex()
    index.store(ONE, None, [1], [10])
    index.remove_worker(ONE)
    assert index.events["cleared"] == 0
    assert index.find([10]) == {}


def test_each_index_counts_for_itself() -> None:
    index, other = CountedIndex(), CountedIndex()
    index.store(ONE, None, [1], [10])
    assert (index.events["stored"], other.events["stored"]) == (1, 0)

"""The prefix index, fact by fact. The random comparison with a naive model is in test_prefix_index_model.py."""

from __future__ import annotations

from array import array

import pytest
from tests._core.prefix_model import reloaded

from dynamo._core.prefix_index import Applied, PrefixIndex, StoredBlocks, WorkerKey

A, B, C = WorkerKey(1), WorkerKey(2), WorkerKey(2, dp_rank=1)


def chain(*tokens: int, salt: int = 0) -> list[int]:
    """Return names as an engine gives them: a name says what the block and all before it hold."""
    return [hash((tokens[: end + 1], salt)) % (1 << 64) for end in range(len(tokens))]


def holding(index: PrefixIndex, worker: WorkerKey, *tokens: int, salt: int = 0) -> list[int]:
    """Let a worker store blocks from the beginning; returns their names."""
    names = chain(*tokens, salt=salt)
    assert index.store(worker, None, names, tokens) == Applied(len(tokens))
    return names


def test_an_empty_index_finds_nobody() -> None:
    index = PrefixIndex()
    assert index.find([1, 2]) == {}
    assert index.find([]) == {}


def test_each_worker_is_found_with_the_blocks_it_has_from_the_beginning() -> None:
    index = PrefixIndex()
    holding(index, A, 1, 2, 3, 4)
    holding(index, B, 1, 2)
    holding(index, C, 1, 9)
    assert index.find([1, 2, 3, 5]) == {A: 3, B: 2, C: 1}
    assert index.find([2, 3]) == {}


def test_a_query_is_any_sequence_of_ints() -> None:
    index = PrefixIndex()
    holding(index, A, 1, 2)
    assert index.find((1, 2)) == index.find([1, 2]) == index.find(array("Q", (1, 2))) == {A: 2}


def test_blocks_continue_behind_any_block_of_their_worker() -> None:
    index = PrefixIndex()
    names = holding(index, A, 1, 2, 3)
    assert index.store(A, names[-1], [77], [4]) == Applied(1)
    assert index.store(A, names[0], [78, 79], [8, 9]) == Applied(2)
    assert index.find([1, 2, 3, 4]) == {A: 4}
    assert index.find([1, 8, 9]) == {A: 3}


def test_storing_again_changes_nothing() -> None:
    index = PrefixIndex()
    holding(index, A, 1, 2, 3)
    holding(index, A, 1, 2, 3)
    assert index.num_blocks == index.num_unique_blocks == 3


def test_blocks_behind_an_unknown_parent_are_counted_and_left_out() -> None:
    index = PrefixIndex()
    names = holding(index, A, 1, 2)
    assert index.store(A, 5, [6, 7], [3, 4]) == Applied(0, unknown_parent=2)
    assert index.store(B, names[-1], [6], [3]) == Applied(0, unknown_parent=1)
    assert index.workers() == {A: 2}


def test_blocks_that_are_not_held_cannot_be_removed_and_are_counted() -> None:
    index = PrefixIndex()
    names = holding(index, A, 1, 2)
    assert index.remove(A, [names[1], names[1], 5]) == Applied(1, unknown_blocks=2)
    assert index.remove(B, names) == Applied(0, unknown_blocks=2)
    assert index.find([1, 2]) == {A: 1}


@pytest.mark.parametrize(("names", "tokens"), [([1, 2], [1]), ([-1], [1]), ([1], [1 << 64]), ([1 << 64], [1])], ids=str)
def test_what_no_engine_can_mean_is_counted_and_left_out(names: list[int], tokens: list[int]) -> None:
    index = PrefixIndex()
    assert index.store(A, None, names, tokens) == Applied(0, malformed=max(len(names), len(tokens)))
    assert index.num_workers == 0


def test_a_parent_that_is_no_u64_is_unknown() -> None:
    index = PrefixIndex(blocks_max=1)
    holding(index, A, 1)
    assert index.store(A, -1, [5], [2]) == index.store(A, 1 << 64, [5], [2]) == Applied(0, unknown_parent=1)


def test_removing_what_is_no_u64_is_malformed() -> None:
    assert PrefixIndex().remove(A, [-1]) == Applied(0, malformed=1)


def test_a_block_cannot_be_its_own_parent() -> None:
    index = PrefixIndex()
    assert index.store(A, None, [5, 5, 6], [1, 1, 1]) == Applied(1, malformed=2)
    assert index.find([1, 1]) == {A: 1}


def test_what_stands_behind_a_removed_block_is_found_again_once_it_is_back() -> None:
    index = PrefixIndex()
    names = holding(index, A, 1, 2, 3, 4)
    index.remove(A, names[1:2])
    assert index.find([1, 2, 3, 4]) == {A: 1}
    assert index.num_blocks == 3
    index.store(A, names[0], names[1:2], [2])
    assert index.find([1, 2, 3, 4]) == {A: 4}


def test_another_holder_keeps_what_one_removes() -> None:
    index = PrefixIndex()
    names = holding(index, A, 1, 2, 3)
    holding(index, B, 1, 2, 3)
    index.remove(A, names)
    assert index.find([1, 2, 3]) == {B: 3}


def test_workers_may_name_the_same_block_differently_and_different_blocks_alike() -> None:
    index = PrefixIndex()
    index.store(A, None, [1, 2, 3], [7, 8, 9])
    index.store(B, None, [3, 2, 1], [7, 8, 9])
    assert index.remove(B, [1]) == Applied(1)
    assert index.find([7, 8, 9]) == {A: 3, B: 2}
    assert index.store(B, 2, [4], [5]) == Applied(1)
    assert index.find([7, 8, 5]) == {A: 2, B: 3}


def test_a_name_that_is_used_for_another_block_no_longer_means_the_former() -> None:
    index = PrefixIndex()
    index.store(A, None, [1, 2], [7, 8])
    index.store(A, 1, [2], [9])
    assert index.find([7, 8]) == {A: 1}
    assert index.find([7, 9]) == {A: 2}


def test_a_block_with_two_names_is_held_until_both_are_removed() -> None:
    index = PrefixIndex()
    index.store(A, None, [1, 2], [7, 8])
    index.store(A, 1, [3], [8])
    assert index.num_blocks == 2
    index.remove(A, [2])
    assert index.find([7, 8]) == {A: 2}
    index.remove(A, [3])
    assert index.find([7, 8]) == {A: 1}


def test_a_worker_that_was_cleared_or_removed_is_gone_at_once_and_comes_back_empty() -> None:
    for forget in (PrefixIndex.clear, PrefixIndex.remove_worker):
        index = PrefixIndex()
        names = holding(index, A, 1, 2, 3)
        holding(index, B, 1)
        forget(index, A)
        assert index.find([1, 2, 3]) == {B: 1}
        assert index.store(A, names[0], names[1:], [2, 3]) == Applied(0, unknown_parent=2)
        holding(index, A, 1, 2)
        assert index.find([1, 2, 3]) == {A: 2, B: 1}


def test_blocks_of_a_removed_worker_are_forgotten_in_slices() -> None:
    index = PrefixIndex()
    for first in range(10):
        holding(index, A, first, *range(100, 200))
    holding(index, B, 0, 100)
    index.remove_worker(A)
    assert index.num_unique_blocks == 1010
    assert not index.reclaim(budget_blocks=150)
    assert 700 < index.num_unique_blocks < 1010
    while not index.reclaim(budget_blocks=150):
        pass
    assert index.num_unique_blocks == index.num_blocks == 2


def test_long_prompts_are_forgotten_in_slices_too() -> None:
    index = PrefixIndex()
    index.store(A, None, range(20_000), range(20_000))
    index.remove_worker(A)
    slices = 0
    while not index.reclaim(budget_blocks=1000):
        slices += 1
    assert slices >= 10
    assert index.num_unique_blocks == index.num_runs == 0


def test_events_alone_also_forget_removed_workers() -> None:
    index = PrefixIndex()
    for number in range(2000):
        worker = WorkerKey(number)
        holding(index, worker, number, number)
        index.remove_worker(worker)
    assert index.num_unique_blocks < 100


def test_a_worker_too_many_is_refused() -> None:
    index = PrefixIndex(workers_max=1)
    holding(index, A, 1)
    assert index.store(B, None, [5, 6], [1, 2]) == Applied(0, full=2)
    index.remove_worker(A)
    holding(index, B, 1)


def test_the_least_recently_found_or_stored_goes_first() -> None:
    index = PrefixIndex(blocks_max=30)
    for first in (1, 2, 3):
        holding(index, A, first, *range(100, 109))
    index.find([1])
    assert holding(index, A, 4, 5)
    assert index.num_unique_blocks == 30
    assert index.find([2, *range(100, 109)]) == {A: 8}
    assert index.find([1, *range(100, 109)]) == index.find([3, *range(100, 109)]) == {A: 10}


def test_what_was_evicted_is_unknown() -> None:
    index = PrefixIndex(blocks_max=4)
    names = holding(index, A, 1, 2, 3)
    holding(index, A, 7, 8, 9)
    assert index.find([1, 2, 3]) == {A: 1}
    assert index.remove(A, names) == Applied(1, unknown_blocks=2)


def test_of_a_prompt_that_is_too_long_the_beginning_stays() -> None:
    index = PrefixIndex(blocks_max=4)
    names = chain(*range(6))
    assert index.store(A, None, names, range(6)) == Applied(4, full=2)
    assert index.find(range(6)) == {A: 4}


def test_names_of_their_own_count_towards_the_limit() -> None:
    index = PrefixIndex(blocks_max=100)
    for number in range(30):
        index.store(WorkerKey(number), None, chain(*range(20), salt=number), range(20))
        assert index.num_names <= 100


@pytest.mark.parametrize("blocks_max", [0, 1 << 24])
def test_a_limit_that_cannot_be_kept_is_refused(blocks_max: int) -> None:
    with pytest.raises(ValueError, match="must be from 1 to 16777215"):
        PrefixIndex(blocks_max=blocks_max)


def test_a_dump_says_what_each_worker_stored() -> None:
    index = PrefixIndex()
    names = holding(index, A, 1, 2)
    holding(index, B, 1)
    index.store(A, names[0], [77], [5])
    first, *others = index.dump(A)
    assert first == StoredBlocks(A, None, array("Q", names[:1]), array("Q", [1]))
    assert [one.parent_hash for one in others] == [names[0], names[0]]
    assert sorted((*one.block_hashes, *one.tokens_hashes) for one in others) == sorted([(names[1], 2), (77, 5)])
    assert {event.worker for event in index.dump()} == {A, B}


def test_a_dump_can_be_loaded_elsewhere() -> None:
    index = PrefixIndex()
    holding(index, A, *range(700))
    holding(index, A, *range(300), 5)
    holding(index, B, *range(400), salt=1)
    again = reloaded(index)
    assert again.find(range(700)) == {A: 700, B: 400}
    assert again.find([*range(300), 5]) == {A: 301, B: 300}
    assert again.workers() == index.workers()


def test_one_run_takes_all_blocks_of_a_decode() -> None:
    index = PrefixIndex()
    names = holding(index, A, *range(20))
    for token in range(20, 120):
        assert index.store(A, names[-1], [token + 1000], [token]) == Applied(1)
        names.append(token + 1000)
    assert index.num_runs == 1


def test_runs_that_were_cut_become_one_again() -> None:
    index = PrefixIndex()
    names = holding(index, A, *range(100))
    for at in range(5, 95, 3):
        holding(index, A, *range(at), 7777)
        index.remove(A, chain(*range(at), 7777)[-1:])
        index.remove(A, [names[at]])
        index.store(A, names[at - 1], [names[at]], [at])
    assert index.find(range(100)) == {A: 100}
    assert index.num_runs == 1

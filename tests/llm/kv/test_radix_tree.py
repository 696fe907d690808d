"""The index as a plain object, fed with JSON."""

from __future__ import annotations

import json

import msgspec
import pytest
from tests.count_lines import lines_of
from tests.llm.kv.scene import tokens_hashes

from dynamo._core.errors import InvalidArgument
from dynamo.llm import OverlapScores, RadixTree

PROMPT = tokens_hashes(6)


def stored(prompt: list[int], parent: int | None = None, dp_rank: int = 0, **around: object) -> bytes:
    blocks = [{"block_hash": tokens ^ 1, "tokens_hash": tokens} for tokens in prompt]
    event = {"event_id": 1, "dp_rank": dp_rank, "data": {"stored": {"parent_hash": parent, "blocks": blocks}}}
    return json.dumps({"worker_id": 9, "event": event, **around} if around else event).encode()


def removed(*names: int) -> bytes:
    return json.dumps({"event_id": 2, "data": {"removed": {"block_hashes": names}}}).encode()


def test_the_longest_prefix_of_each_worker_is_found() -> None:
    tree = RadixTree()
    tree.apply_event(1, stored(PROMPT))
    tree.apply_event(2, stored(PROMPT[:2], dp_rank=1))
    tree.apply_event(2, stored(PROMPT[2:4], PROMPT[1] ^ 1, dp_rank=1).decode())
    assert tree.find_matches(PROMPT) == OverlapScores({(1, 0): 6, (2, 1): 4}, [2, 2, 2, 2, 1, 1])
    assert tree.find_matches(PROMPT[:3]).scores == {(1, 0): 3, (2, 1): 3}
    assert tree.find_matches([5, *PROMPT]) == OverlapScores({}, [])
    assert (tree.num_workers, tree.num_blocks) == (2, 10)


def test_counting_may_end_where_one_worker_is_left() -> None:
    tree = RadixTree()
    tree.apply_event(1, stored(PROMPT))
    assert tree.find_matches(PROMPT, early_exit=True).scores == {(1, 0): 1}
    tree.apply_event(2, stored(PROMPT[:2]))
    tree.apply_event(3, stored(PROMPT[:2]))
    assert tree.find_matches(PROMPT, early_exit=True).scores == {(1, 0): 3, (2, 0): 2, (3, 0): 2}


def test_blocks_go_one_by_one_with_a_worker_or_all_at_once() -> None:
    tree = RadixTree()
    for worker_id in (1, 2, 3):
        tree.apply_event(worker_id, stored(PROMPT))
    tree.apply_event(1, removed(PROMPT[3] ^ 1))
    tree.remove_worker(2)
    assert tree.find_matches(PROMPT).scores == {(1, 0): 3, (3, 0): 6}
    tree.clear_all_blocks(3)
    tree.apply_event(1, b'{"event_id": 3, "data": "cleared"}')
    assert tree.find_matches(PROMPT).scores == {}
    assert tree.num_blocks == 0


def test_a_worker_of_many_blocks_goes_as_soon_as_one_of_few_and_its_memory_comes_back_with_events() -> None:
    tree = RadixTree()
    prompts = [tokens_hashes(300, first_token=10_000 * number) for number in range(40)]
    for prompt in prompts:
        tree.apply_event(1, stored(prompt))
    _, lines = lines_of(lambda: tree.remove_worker(1))
    assert lines < 20_000
    assert (tree.find_matches(prompts[0]).scores, tree.num_blocks) == ({}, 0)
    assert tree._index.num_unique_blocks > 11_000
    for _ in range(40):
        tree.apply_event(2, stored(prompts[0]))
    assert tree._index.num_unique_blocks == 300


def test_an_event_may_have_the_worker_around_it() -> None:
    tree = RadixTree()
    tree.apply_event(4, stored(PROMPT, residency_domain="worker"))
    assert tree.find_matches(PROMPT).scores == {(4, 0): 6}


def test_what_it_dumps_makes_the_same_tree() -> None:
    tree, copy = RadixTree(), RadixTree()
    tree.apply_event(1, stored(PROMPT))
    tree.apply_event(1, stored(PROMPT, dp_rank=3))
    tree.apply_event(2, stored(tokens_hashes(3, first_token=99)))
    for line in tree.dump_tree_as_events():
        event = msgspec.json.decode(line)
        copy.apply_event(event["worker_id"], line)
    assert copy.find_matches(PROMPT) == tree.find_matches(PROMPT)
    assert copy.num_blocks == tree.num_blocks == 15


def test_memory_of_other_tiers_is_ignored_and_counted() -> None:
    tree = RadixTree()
    tree.apply_event(1, stored(PROMPT, storage_tier="disk"))
    assert tree.find_matches(PROMPT).scores == {}
    assert tree.faults == {"other_medium": 1}


def test_what_does_not_fit_is_counted() -> None:
    tree = RadixTree()
    tree.apply_event(1, stored(PROMPT, parent=3))
    tree.apply_event(1, removed(1, 2))
    assert tree.faults == {"unknown_parent": 6, "unknown_block": 2}


@pytest.mark.parametrize(
    "garbage",
    [b"", b"{", b"[]", b"{}", b'{"data": "gone"}', b'{"data": {"removed": {"block_hashes": [1e40]}}}', b"\xff"],
)
def test_what_is_no_event_is_refused(garbage: bytes) -> None:
    with pytest.raises(InvalidArgument, match="no KV event"):
        RadixTree().apply_event(1, garbage)


def test_hashes_are_integers_of_64_bits() -> None:
    for wrong in ([1 << 64], ["one"]):
        with pytest.raises(InvalidArgument, match="hashes of blocks"):
            RadixTree().find_matches(wrong)  # type: ignore[arg-type]

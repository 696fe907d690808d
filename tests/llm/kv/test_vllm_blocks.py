"""What vLLM's events say, in every form in which it says it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec
import pytest
from tests.llm.kv.fake_vllm import CLEARED, as_array, encoded, removed, stored

from dynamo._core.blocks import block_hashes
from dynamo._core.prefix_index import PrefixIndex, WorkerKey
from dynamo.llm._kv_faults import Faults
from dynamo.llm._kv_vllm_blocks import VllmBlocks
from dynamo.llm._kv_vllm_events import BlockRemoved, BlockStored, read_batch, read_event

SIZE = 4
TOKENS = list(range(50, 50 + 3 * SIZE))
PROMPT = block_hashes(TOKENS, SIZE)
WORKER = WorkerKey(1)


class Index:
    """A sink that can be asked."""

    def __init__(self) -> None:
        self.index = PrefixIndex()
        self.num_cleared = 0

    def stored(
        self,
        parent_hash: int | None,
        block_hashes: Sequence[int],
        tokens_hashes: Sequence[int] | None = None,
        *,
        token_ids: Sequence[int] | None = None,
    ) -> None:
        assert tokens_hashes is not None
        self.index.store(WORKER, parent_hash, block_hashes, tokens_hashes)

    def removed(self, block_hashes: Sequence[int]) -> None:
        self.index.remove(WORKER, block_hashes)

    def cleared(self) -> None:
        self.num_cleared += 1
        self.index.clear(WORKER)

    def holds(self, prompt: Sequence[int]) -> int:
        return self.index.find(prompt).get(WORKER, 0)


class Bench:
    def __init__(self, block_size: int | None = SIZE) -> None:
        self.sink = Index()
        self.faults = Faults(logging.getLogger("test"), "test", lambda: 0.0)
        self.blocks = VllmBlocks(self.sink, block_size, self.faults)

    def take(self, *events: object) -> None:
        for raw in read_batch(encoded(*events)):
            self.blocks.take(raw)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_the_event_that_was_captured_is_read() -> None:
    captured = {
        "type": "BlockStored",
        "block_hashes": [12299694243627513982],
        "parent_block_hash": 14605283265388122924,
        "token_ids": [473] * 32,
        "block_size": 32,
        "lora_id": None,
        "medium": "GPU",
        "lora_name": None,
        "extra_keys": [None],
        "group_idx": 0,
        "kv_cache_spec_kind": "full_attention",
    }
    (raw,) = read_batch(msgspec.msgpack.encode([1795192915.53, [captured], 0]))
    event = read_event(raw)
    assert isinstance(event, BlockStored)
    assert (event.block_hashes, event.block_size) == ([12299694243627513982], 32)


def test_blocks_are_found_by_their_tokens_and_removed_by_their_names(bench: Bench) -> None:
    event = stored(TOKENS, SIZE)
    bench.take(event)
    assert bench.sink.holds(PROMPT) == 3
    names = event["block_hashes"]
    assert isinstance(names, list)
    bench.take(removed(names[2:]), removed(names[1:2]))
    assert bench.sink.holds(PROMPT) == 1
    bench.take(CLEARED)
    assert bench.sink.holds(PROMPT) == 0
    assert bench.faults.counts == {}


def test_a_block_that_is_there_twice_goes_with_its_last_copy(bench: Bench) -> None:
    first = stored(TOKENS, SIZE, hashes=[1, 2, 3])
    bench.take(first, stored(TOKENS[SIZE:], SIZE, 1, [2, 3]))
    bench.take(removed([3]), removed([2]))
    assert bench.sink.holds(PROMPT) == 3
    bench.take(removed([3]))
    assert bench.sink.holds(PROMPT) == 2
    bench.take(CLEARED, first, removed([3]))
    assert bench.sink.holds(PROMPT) == 2


def test_blocks_that_are_used_again_may_be_told_again_and_are_no_copies(bench: Bench) -> None:
    first = stored(TOKENS, SIZE, hashes=[1, 2, 3])
    again = stored(TOKENS[: 2 * SIZE], SIZE, hashes=[1, 2])  # of a request with kv_cache_report_mode="full"
    bench.take(first, again, again, stored(range(SIZE), SIZE, 2, [4]), again)
    bench.take(removed([3]), removed([2]))
    assert bench.sink.holds(PROMPT) == 1
    bench.take(again)
    assert bench.sink.holds(PROMPT) == 2
    bench.take(removed([2]), removed([1]))
    assert bench.sink.holds(PROMPT) == 0


def test_the_older_arrays_with_fewer_fields_say_the_same(bench: Bench) -> None:
    first = stored(TOKENS[: 2 * SIZE], SIZE, hashes=[1, 2])
    bench.take(as_array(first), as_array(stored(TOKENS[2 * SIZE :], SIZE, 2, [3])))
    assert bench.sink.holds(PROMPT) == 3
    bench.take(as_array(removed([2])))
    assert bench.sink.holds(PROMPT) == 1
    bench.take(as_array(CLEARED))
    assert bench.sink.num_cleared == 1
    bench.take(as_array(first)[:5])
    assert bench.sink.holds(PROMPT) == 2
    assert bench.faults.counts == {}


def test_newer_fields_are_ignored_in_both_forms(bench: Bench) -> None:
    event = stored(TOKENS, SIZE, hashes=[1, 2, 3], locality="LOCAL", news={"more": [1]})
    bench.take(event)
    bench.take([*as_array(removed([3])), "GPU", 0, "more", {"more": 1}])
    assert bench.sink.holds(PROMPT) == 2


def test_hashes_of_bytes_are_the_same_names_as_their_lower_64_bits(bench: Bench) -> None:
    names = [bytes(24) + bytes([255, 0, 0, 0, 0, 0, 0, number]) for number in range(3)]
    bench.take(stored(TOKENS[:SIZE], SIZE, hashes=names[:1]))
    bench.take(stored(TOKENS[SIZE:], SIZE, parent=names[0], hashes=names[1:]))
    assert bench.sink.holds(PROMPT) == 3
    bench.take(removed([int.from_bytes(names[1][-8:], "big")]))
    assert bench.sink.holds(PROMPT) == 1


def test_blocks_of_generated_tokens_continue_the_prompt(bench: Bench) -> None:
    bench.take(stored(TOKENS[:SIZE], SIZE, hashes=[10]))
    for number, begin in enumerate((SIZE, 2 * SIZE), 11):
        bench.take(stored(TOKENS[begin : begin + SIZE], SIZE, number - 1, [number]))
    assert bench.sink.holds(PROMPT) == 3


def test_an_adapter_changes_what_is_found(bench: Bench) -> None:
    bench.take(stored(TOKENS, SIZE, lora_id=1, lora_name="adapter", extra_keys=[["adapter"]] * 3))
    assert bench.sink.holds(PROMPT) == 0
    assert bench.sink.holds(block_hashes(TOKENS, SIZE, lora_name="adapter")) == 3


def test_an_adapter_that_has_only_a_number_is_known_by_that(bench: Bench) -> None:
    bench.take(as_array(stored(TOKENS, SIZE, lora_id=3)))
    assert bench.sink.holds(PROMPT) == 0
    assert bench.sink.holds(block_hashes(TOKENS, SIZE, lora_name="3")) == 3


def test_a_salt_is_that_of_all_blocks_behind_the_first(bench: Bench) -> None:
    bench.take(stored(TOKENS[: 2 * SIZE], SIZE, hashes=[1, 2], extra_keys=[["s1"], None]))
    bench.take(stored(TOKENS[2 * SIZE :], SIZE, 2, [3], extra_keys=[None]))
    salted = block_hashes(TOKENS, SIZE, cache_namespace="s1")
    assert (bench.sink.holds(salted), bench.sink.holds(PROMPT)) == (3, 0)
    # The same engine name, stored again without a salt, is another block.
    bench.take(removed([3, 2, 1]), stored(TOKENS, SIZE, hashes=[1, 2, 3]))
    assert (bench.sink.holds(salted), bench.sink.holds(PROMPT)) == (0, 3)


def test_a_salt_with_an_adapter(bench: Bench) -> None:
    keys = [["adapter", "s1"], ["adapter"], ["adapter"]]
    bench.take(stored(TOKENS, SIZE, lora_name="adapter", extra_keys=keys))
    assert bench.sink.holds(block_hashes(TOKENS, SIZE, lora_name="adapter", cache_namespace="s1")) == 3


def test_a_salt_that_is_called_as_the_adapter_is_a_salt(bench: Bench) -> None:
    bench.take(stored(TOKENS, SIZE, lora_name="a", extra_keys=[["a", "a"], ["a"], ["a"]]))
    assert bench.sink.holds(block_hashes(TOKENS, SIZE, lora_name="a", cache_namespace="a")) == 3
    assert bench.sink.holds(block_hashes(TOKENS, SIZE, lora_name="a")) == 0


@pytest.mark.parametrize(
    "first", [["s1", ["image", 0]], [["image", 0], "s1"], ["s1", b"embeds"], [b"embeds"], [""], [None], ["s1", "s2"]]
)
def test_a_first_block_that_is_more_than_its_tokens_adapter_and_salt_is_not_taken_for_one(
    bench: Bench, first: list[object]
) -> None:
    bench.take(stored(TOKENS, SIZE, hashes=[1, 2, 3], extra_keys=[first, None, None]))
    assert bench.faults.counts == {"media": 3}
    bench.take(stored(TOKENS[:SIZE], SIZE, 3, [4], extra_keys=[None]))
    for salt in (None, "s1", "s2"):
        assert bench.sink.holds(block_hashes(TOKENS, SIZE, cache_namespace=salt)) == 0


def test_a_salt_in_a_field_of_each_event_says_the_same(bench: Bench) -> None:
    bench.take(stored(TOKENS[:SIZE], SIZE, hashes=[1], cache_salt="s1", extra_keys=None))
    bench.take(stored(TOKENS[SIZE:], SIZE, 1, [2, 3], cache_salt="s1", extra_keys=None))
    bench.take(stored(TOKENS, SIZE, hashes=[4, 5, 6], cache_salt="s2", extra_keys=[["s2"], None, None]))
    for salt in ("s1", "s2"):
        assert bench.sink.holds(block_hashes(TOKENS, SIZE, cache_namespace=salt)) == 3
    assert bench.sink.holds(PROMPT) == 0
    bench.take(stored(TOKENS, SIZE, cache_salt="s3", extra_keys=[["s4"], None, None]))
    for salt in ("s3", "s4"):
        assert bench.sink.holds(block_hashes(TOKENS, SIZE, cache_namespace=salt)) == 0
    assert bench.faults.counts == {"media": 3}


def test_a_salt_behind_the_first_block_is_none(bench: Bench) -> None:
    bench.take(stored(TOKENS, SIZE, extra_keys=[None, ["s1"], None]))
    assert bench.sink.holds(PROMPT) == 1
    assert bench.faults.counts == {"media": 2}


def test_blocks_whose_keys_are_not_those_of_each_are_malformed(bench: Bench) -> None:
    bench.take(stored(TOKENS, SIZE, extra_keys=[["s1"], None]), stored(TOKENS, SIZE, extra_keys=[]))
    assert bench.sink.holds(PROMPT) == 0
    assert bench.faults.counts == {"malformed": 2}


def test_blocks_with_media_and_those_behind_them_are_left_out(bench: Bench) -> None:
    bench.take(stored(TOKENS, SIZE, extra_keys=[None, [["hash-of-an-image", 3]], None]))
    assert bench.sink.holds(PROMPT) == 1
    assert bench.faults.counts == {"media": 2}


def test_blocks_in_other_memory_are_counted_and_change_nothing(bench: Bench) -> None:
    bench.take(stored(TOKENS, SIZE, hashes=[1, 2, 3]))
    bench.take(stored(TOKENS, SIZE, hashes=[1, 2, 3], medium="CPU"), removed([1, 2, 3], medium="CPU"))
    assert bench.sink.holds(PROMPT) == 3
    assert bench.faults.counts == {"other_medium": 6}


def test_of_several_groups_of_layers_the_first_that_keeps_all_tokens_counts(bench: Bench) -> None:
    window = stored(TOKENS, SIZE, hashes=[1, 2, 3], kv_cache_spec_kind="sliding_window")
    bench.take({**window, "kv_cache_spec_sliding_window": 128})
    assert bench.sink.holds(PROMPT) == 0
    bench.take(stored(TOKENS, SIZE, hashes=[1, 2, 3], group_idx=1), stored(TOKENS, SIZE, hashes=[7, 8, 9], group_idx=2))
    bench.take(removed([1, 2, 3], group_idx=0), removed([1], group_idx=2))
    assert bench.sink.holds(PROMPT) == 3
    bench.take(removed([1], group_idx=1))
    assert bench.sink.holds(PROMPT) == 0
    assert bench.faults.counts == {"other_group": 10}


def test_another_block_size_is_refused_with_both_values(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.take(stored(range(32), 32))
    assert bench.sink.index.num_blocks == 0
    assert bench.faults.counts == {"block_size": 1}
    assert "blocks have 32 tokens, and the worker was started for 4" in caplog.text


@pytest.mark.parametrize(
    "wrong",
    [
        stored(TOKENS[:1], 1_000_000, hashes=[1]),
        stored([], 1_000_000),
        stored(TOKENS, 0, hashes=[1, 2, 3]),
        stored(TOKENS, -SIZE, hashes=[1, 2, 3]),
        stored([-1] * 8, 8),
        stored(TOKENS, len(TOKENS), hashes=[1], extra_keys=[["image", 1]]),
    ],
)
def test_the_block_size_is_that_of_the_first_event_that_is_taken(wrong: object) -> None:
    bench = Bench(None)
    sizes = []
    for event in (wrong, stored(TOKENS, SIZE), stored(range(32), 32)):
        bench.take(event)
        sizes.append(bench.blocks.block_size)
    assert sizes == [None, SIZE, SIZE]
    assert bench.sink.holds(PROMPT) == 3
    assert bench.faults.counts["block_size"] == 1


def test_the_group_of_layers_is_that_of_the_first_event_that_is_taken(bench: Bench) -> None:
    bench.take(stored(TOKENS[:-1], SIZE, hashes=[1, 2, 3], group_idx=5), stored(TOKENS, SIZE, group_idx=1))
    assert bench.sink.holds(PROMPT) == 3


def test_an_engine_that_starts_anew_may_have_other_blocks() -> None:
    bench = Bench(None)
    bench.take(stored(TOKENS, SIZE))
    bench.blocks.restart()
    bench.take(stored(range(32), 32, group_idx=3))
    assert bench.blocks.block_size == 32
    assert bench.sink.holds(block_hashes(list(range(32)), 32)) == 1
    assert bench.faults.counts == {}


def test_a_block_size_that_was_given_stays(bench: Bench) -> None:
    bench.blocks.restart()
    bench.take(stored(range(32), 32))
    assert (bench.blocks.block_size, bench.sink.index.num_blocks) == (SIZE, 0)


@pytest.mark.parametrize(
    ("event", "fault"),
    [
        ("text", "malformed"),
        ({"type": "BlockMoved"}, "malformed"),
        ({"no": "type"}, "malformed"),
        (["BlockMoved", [1]], "malformed"),
        ([], "malformed"),
        (stored(TOKENS, SIZE, hashes=[1, 2, "three"]), "malformed"),
        (stored(TOKENS, SIZE, hashes=[1, 2, 3], token_ids=[-1] * 12), "malformed"),
        (stored(TOKENS[:-1], SIZE, hashes=[1, 2, 3]), "short_block"),
        (stored(TOKENS, SIZE, hashes=[1, 2]), "short_block"),
    ],
)
def test_one_bad_event_is_counted_and_hides_no_other(bench: Bench, event: object, fault: str) -> None:
    bench.take(event, stored(TOKENS, SIZE))
    assert list(bench.faults.counts) == [fault]
    assert bench.sink.holds(PROMPT) == 3


def test_a_removal_may_come_alone() -> None:
    (raw,) = read_batch(encoded({"type": "BlockRemoved", "block_hashes": [1]}))
    assert read_event(raw) == BlockRemoved([1])

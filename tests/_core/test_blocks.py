"""Block hashes are those of Dynamo 1.6, for ever; a naive implementation says what they are of."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Sequence
from itertools import chain

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from dynamo._core.blocks import BlockHasher, block_hash_list, block_hashes, sequence_hashes
from dynamo._core.errors import InvalidArgument

TOKENS = range(1, 33)
PLAIN = [16863443419780771464, 2287610619914608821]
LORA = [11971684268769161569, 5219371189453447045]
NAMESPACE = [3208900250063314977, 17791617276786859572]
LORA_IN_NAMESPACE = [2411154862754499709, 15625649393309097934]

tokens = st.lists(st.integers(0, 2**32 - 1), max_size=200)
hashes = st.lists(st.integers(0, 2**64 - 1), max_size=40)
sizes = st.integers(1, 20)


def naive(
    token_ids: Sequence[int], block_size: int, seed: int, mm_hashes: Sequence[Sequence[int]] | None, is_eagle: bool
) -> Iterator[int]:
    window = block_size + is_eagle
    for number, start in enumerate(range(0, len(token_ids) - window + 1, block_size)):
        text = b"".join(token_id.to_bytes(4, "little") for token_id in token_ids[start : start + window])
        for mm_hash in sorted(mm_hashes[number]) if mm_hashes else ():
            text += mm_hash.to_bytes(8, "little")
        yield xxhash.xxh3_64_intdigest(text, seed)


@pytest.mark.parametrize(
    ("token_ids", "block_size", "expected"),
    [
        (TOKENS, 16, PLAIN),
        (
            range(64), 16,
            [15310707395893867146, 15292316782987903195, 5532946206955930018, 14928757266181269122],
        ),
        (range(64), 32, [5756925433886871916, 13958166640625465031]),
        (range(64), 64, [3480597578098033343]),
        ([1] * 16, 16, [13518392937921988335]),
        ([4294967295] * 4, 4, [12410542959481710713]),
    ],
)  # fmt: skip
def test_block_hashes_never_change(token_ids: Sequence[int], block_size: int, expected: list[int]) -> None:
    assert block_hash_list(token_ids, block_size) == expected
    assert block_hashes(token_ids, block_size) == array("Q", expected)


def test_a_lora_adapter_and_a_namespace_change_every_hash() -> None:
    assert block_hash_list(TOKENS, 16, lora_name="adapter") == LORA
    assert block_hash_list(TOKENS, 16, cache_namespace="tenant") == NAMESPACE
    assert block_hash_list(TOKENS, 16, lora_name="adapter", cache_namespace="tenant") == LORA_IN_NAMESPACE


def test_names_are_hashed_as_utf_8() -> None:
    hashed = block_hash_list(TOKENS, 16, lora_name="é", cache_namespace="ü" * 50)
    assert hashed == [14550913985146594066, 10528204312302330315]


def test_an_empty_name_is_none() -> None:
    assert block_hash_list(TOKENS, 16, lora_name="", cache_namespace="") == PLAIN


def test_a_name_that_is_not_text_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="surrogates"):
        block_hashes(TOKENS, 16, lora_name="\ud800")


def test_media_change_the_hash_of_their_block_in_any_order() -> None:
    assert block_hash_list(TOKENS, 16, mm_hashes=[[7], []]) == [5771247725381875071, PLAIN[1]]
    for order in ([7, 3], [3, 7]):
        assert block_hash_list(TOKENS, 16, mm_hashes=[order, [2**64 - 1]]) == [
            14838381081241750522,
            7224638827985493682,
        ]


def test_a_medium_that_is_in_a_block_twice_counts_twice() -> None:
    assert block_hash_list(TOKENS, 16, mm_hashes=[[], [7, 7]]) == [PLAIN[0], 10066599747747011501]


def test_eagle_blocks_cover_the_token_behind_them() -> None:
    assert block_hash_list(TOKENS, 16, is_eagle=True) == [6752489653130089168]
    first = [11423441316381344367, 6554946393898374776]
    assert block_hash_list(range(48), 16, is_eagle=True) == first
    assert block_hash_list(range(49), 16, is_eagle=True) == [*first, 6629656204900913084]


def test_all_that_changes_a_hash_works_together() -> None:
    assert block_hash_list(TOKENS, 16, mm_hashes=[[7], []], is_eagle=True) == [13064953538065095098]
    everything = block_hash_list(
        TOKENS, 16, lora_name="adapter", cache_namespace="tenant", mm_hashes=[[7], [8]], is_eagle=True
    )
    assert everything == [13757756189691268630]


@pytest.mark.parametrize("length", [0, 1, 15])
def test_a_partial_block_has_no_hash(length: int) -> None:
    assert block_hash_list(range(length), 16) == []
    assert block_hash_list(range(16 + length), 16) == block_hash_list(range(16), 16)


@given(tokens, sizes, st.booleans(), st.lists(hashes, min_size=200, max_size=200) | st.none())
def test_hashes_are_those_of_the_naive_implementation(
    token_ids: list[int], block_size: int, is_eagle: bool, media: list[list[int]] | None
) -> None:
    expected = list(naive(token_ids, block_size, 1337, media, is_eagle))
    mm_hashes = None if media is None else media[: len(expected)]
    assert block_hash_list(token_ids, block_size, mm_hashes=mm_hashes, is_eagle=is_eagle) == expected


@given(tokens, tokens, tokens, sizes, st.booleans())
def test_block_hashes_agree_exactly_as_far_as_the_tokens_do(
    prefix: list[int], a: list[int], b: list[int], block_size: int, is_eagle: bool
) -> None:
    def windows(token_ids: list[int]) -> list[list[int]]:
        ends = range(block_size + is_eagle, len(token_ids) + 1, block_size)
        return [token_ids[:end] for end in ends]

    left, right = prefix + a, prefix + b
    same = [x == y for x, y in zip(windows(left), windows(right), strict=False)]
    chained = [sequence_hashes(block_hashes(one, block_size, is_eagle=is_eagle)) for one in (left, right)]
    assert [x == y for x, y in zip(*chained, strict=False)] == same


def test_a_long_prompt_is_hashed_like_its_parts() -> None:
    token_ids = [n * 2654435761 % 2**32 for n in range(1_000_003)]
    halves = [block_hash_list(half, 48) for half in (token_ids[:480_000], token_ids[480_000:])]
    assert block_hash_list(token_ids, 48) == halves[0] + halves[1]
    assert block_hash_list(array("I", token_ids), 48) == halves[0] + halves[1]


@pytest.mark.parametrize("block_size", [0, -1, True, 16.0, "16"])
def test_a_block_size_that_is_not_at_least_one_is_refused(block_size: int) -> None:
    with pytest.raises(InvalidArgument, match=f"block_size is {block_size!r}"):
        block_hashes(TOKENS, block_size)
    with pytest.raises(InvalidArgument, match=f"block_size is {block_size!r}"):
        BlockHasher(block_size)


@pytest.mark.parametrize("is_eagle", [False, True])
def test_no_block_is_larger_than_can_be(is_eagle: bool) -> None:
    assert block_hash_list(TOKENS, 2**62, is_eagle=is_eagle) == []


@pytest.mark.parametrize("num_entries", [1, 3, 4])
def test_media_of_some_blocks_and_not_of_others_are_refused(num_entries: int) -> None:
    with pytest.raises(InvalidArgument, match=f"{num_entries} entries for 2 full blocks"):
        block_hashes(TOKENS, 16, mm_hashes=[[7]] * num_entries)


def test_the_partial_block_may_have_media_which_are_not_hashed() -> None:
    assert block_hash_list(range(1, 40), 16, mm_hashes=[[7], [], [9]]) == [5771247725381875071, PLAIN[1]]


def test_no_entries_at_all_are_no_media() -> None:
    assert block_hash_list(TOKENS, 16, mm_hashes=[]) == PLAIN


@pytest.mark.parametrize("bad", [-1, 2**64, 1.5, "7"])
def test_a_media_hash_that_is_no_u64_is_refused_with_its_block(bad: int) -> None:
    with pytest.raises(InvalidArgument, match="block 1"):
        block_hashes(TOKENS, 16, mm_hashes=[[7], [3, bad]])


def test_sequence_hashes_never_change() -> None:
    signed = struct.unpack("4q", sequence_hashes(block_hashes(range(64), 16)).tobytes())
    assert signed == (-3136036677815684470, -4677586368451018952, -6566916317599637088, 3888788807566526800)


@given(hashes, st.integers(0, 2**64 - 1) | st.none())
def test_sequence_hashes_chain_each_block_to_the_one_before(blocks: list[int], parent: int | None) -> None:
    expected, before = [], parent
    for block in blocks:
        pair = None if before is None else struct.pack("<QQ", before, block)
        before = block if pair is None else xxhash.xxh3_64_intdigest(pair, 1337)
        expected.append(before)
    assert list(sequence_hashes(blocks, parent)) == expected


@given(hashes, st.integers(0, 40))
def test_a_sequence_continues_behind_its_parent(blocks: list[int], cut: int) -> None:
    head = sequence_hashes(blocks[:cut])
    tail = sequence_hashes(blocks[cut:], head[-1] if head else None)
    assert head + tail == sequence_hashes(blocks)


@pytest.mark.parametrize(("blocks", "parent"), [([2**64], None), ([1, -1], None), ([1], 2**64), ([1, "2"], None)])
def test_what_is_no_hash_is_not_chained(blocks: list[int], parent: int | None) -> None:
    with pytest.raises(InvalidArgument, match="integers from 0 to"):
        sequence_hashes(blocks, parent)


@given(st.lists(tokens, max_size=8), sizes)
def test_blocks_that_fill_one_by_one_get_the_hashes_of_the_whole(parts: list[list[int]], block_size: int) -> None:
    hasher = BlockHasher(block_size, lora_name="adapter", cache_namespace="tenant")
    filled = [full for part in parts if (full := hasher.extend(part)) is not None]

    whole = block_hash_list([*chain(*parts)], block_size, lora_name="adapter", cache_namespace="tenant")
    assert [one for full in filled for one in full.tokens_hashes] == whole
    chained = list(sequence_hashes(whole))
    assert [one for full in filled for one in full.block_hashes] == chained
    parents = [None, *(full.block_hashes[-1] for full in filled)]
    assert [full.parent_hash for full in filled] == parents[: len(filled)]


def test_tokens_that_fill_no_block_have_nothing_to_tell() -> None:
    hasher = BlockHasher(4)
    assert hasher.extend([1, 2, 3]) is None
    full = hasher.extend([4])
    assert full is not None
    assert full.parent_hash is None
    assert full.tokens_hashes == full.block_hashes == block_hashes([1, 2, 3, 4], 4)
    assert hasher.extend([]) is None


def test_a_token_that_is_refused_leaves_the_hasher_as_it_was() -> None:
    hasher = BlockHasher(2)
    hasher.extend([1])
    with pytest.raises(InvalidArgument, match="token 1 of token_ids is -1"):
        hasher.extend([2, -1])
    full = hasher.extend([2])
    assert full is not None
    assert full.tokens_hashes == block_hashes([1, 2], 2)

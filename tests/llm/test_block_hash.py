"""`compute_block_hash_for_seq` takes what its users give it, and gives plain integers."""

from __future__ import annotations

from array import array

import pytest

from dynamo._core.errors import InvalidArgument
from dynamo.llm import compute_block_hash_for_seq
from dynamo.llm._block_hash import BlockMmInfo

TOKENS = list(range(1, 33))


def media(*mm_hashes: int) -> BlockMmInfo:
    return {"mm_objects": [{"mm_hash": mm_hash, "offsets": [(0, 1)]} for mm_hash in mm_hashes]}


def test_hashes_of_full_blocks_come_as_a_list() -> None:
    assert compute_block_hash_for_seq(TOKENS, 16) == [16863443419780771464, 2287610619914608821]
    assert compute_block_hash_for_seq(array("I", TOKENS), 20) == compute_block_hash_for_seq(TOKENS[:20], 20)


def test_arguments_have_the_order_that_callers_rely_on() -> None:
    positional = compute_block_hash_for_seq(TOKENS, 16, [media(7), media(8)], "adapter", True, "tenant")
    assert positional == [13757756189691268630]
    assert compute_block_hash_for_seq(TOKENS, 16, None, None, None, None) == compute_block_hash_for_seq(TOKENS, 16)


def test_media_come_as_they_do_from_json() -> None:
    hashed = compute_block_hash_for_seq(TOKENS, 16, [media(7, 3), media(2**64 - 1)])
    assert hashed == [14838381081241750522, 7224638827985493682]
    assert compute_block_hash_for_seq(TOKENS, 16, [None, media(7, 7)])[1] == 10066599747747011501
    assert compute_block_hash_for_seq(TOKENS, 16, [media(), None]) == compute_block_hash_for_seq(TOKENS, 16)


@pytest.mark.parametrize(
    ("info", "what"),
    [
        ({}, "`mm_objects`"),
        ({"mm_objects": [{"mm_hash": 7}]}, "`offsets`"),
        ({"mm_objects": [{"mm_hash": "7", "offsets": []}]}, "mm_hash"),
        ({"mm_objects": [{"mm_hash": 7, "offsets": [[1]]}]}, "offsets"),
        (media(-1), "block 1"),
        (media(2**64), "block 1"),
        ([], r"\$\[1\]"),
    ],
)
def test_media_of_another_form_are_refused_with_what_is_wrong(info: BlockMmInfo, what: str) -> None:
    with pytest.raises(InvalidArgument, match=what):
        compute_block_hash_for_seq(TOKENS, 16, [None, info])


def test_media_of_only_some_blocks_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="1 entries for 2 full blocks"):
        compute_block_hash_for_seq(TOKENS, 16, [media(7)])


def test_a_wrong_token_is_named() -> None:
    with pytest.raises(InvalidArgument, match="token 2 of token_ids is -5"):
        compute_block_hash_for_seq([1, 2, -5], 16)

"""Token ids in any form become the same words, and what is no token id is refused with its position."""

from __future__ import annotations

import ctypes
from array import array
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo._core._token_words import TokenIds, token_words
from dynamo._core.errors import InvalidArgument

#: Every form that token ids may have, and the largest of them that it holds.
FORMS: dict[str, tuple[Callable[[list[int]], Any], int]] = {
    "tuple": (tuple, 2**32),
    "deque": (deque, 2**32),
    "array of u32": (lambda ids: array("I", ids), 2**32),
    "array of u64": (lambda ids: array("Q", ids), 2**32),
    "array of i32": (lambda ids: array("i", ids), 2**31),
    "array of i64": (lambda ids: array("q", ids), 2**32),
    "array of long": (lambda ids: array("l", ids), 2**32),
    "memoryview": (lambda ids: memoryview(array("I", ids)), 2**32),
    "every second of a memoryview": (lambda ids: memoryview(array("I", [n for i in ids for n in (i, 9)]))[::2], 2**32),
    "ndarray of u32": (lambda ids: np.array(ids, np.uint32), 2**32),
    "ndarray of i32": (lambda ids: np.array(ids, np.int32), 2**31),
    "ndarray of i64": (lambda ids: np.array(ids, np.int64), 2**32),
    "ndarray of u64": (lambda ids: np.array(ids, np.uint64), 2**32),
    "ndarray, reversed twice": (lambda ids: np.array(ids[::-1], np.int64)[::-1], 2**32),
    "read-only ndarray": (lambda ids: np.frombuffer(array("I", ids).tobytes(), np.uint32), 2**32),
    "list of numpy's integers": (lambda ids: list(np.array(ids, np.int64)), 2**32),
    "ctypes array": (lambda ids: (ctypes.c_uint32 * len(ids))(*ids), 2**32),
}

BAD: list[object] = [-1, 2**32, 2**63, -(2**63), 2**64, 2**100, 1.0, float("nan"), True, False, None, "1", b"1", [1]]
BAD += [np.float32(1), np.True_, np.int64(-1)]


@pytest.mark.parametrize("form", FORMS)
@given(data=st.data())
def test_every_form_of_token_ids_gives_the_same_words(form: str, data: st.DataObject) -> None:
    make, limit = FORMS[form]
    token_ids = data.draw(st.lists(st.integers(0, limit - 1) | st.integers(0, 5), max_size=50))
    expected = b"".join(token_id.to_bytes(4, "little") for token_id in token_ids)
    assert token_words(token_ids) == expected
    assert token_words(make(token_ids)) == expected


@pytest.mark.parametrize("form", FORMS)
def test_long_prompts_give_the_same_words_in_every_form(form: str) -> None:
    make, limit = FORMS[form]
    token_ids = [n * 2654435761 % limit for n in range(20_011)]
    assert token_words(make(token_ids)) == np.array(token_ids, "<u4").tobytes()


def test_a_range_is_a_sequence_of_token_ids() -> None:
    assert token_words(range(3)) == token_words([0, 1, 2])


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: f"{type(bad).__name__} {bad}")
@pytest.mark.parametrize("form", [list, tuple, deque])
@pytest.mark.parametrize("position", [0, 3, 20_000])
def test_what_is_no_token_id_is_refused_with_its_position(
    bad: int, form: Callable[[list[int]], list[int]], position: int
) -> None:
    token_ids = form([*range(position), bad, *range(5)])
    with pytest.raises(InvalidArgument, match=f"^token {position} of token_ids is ") as caught:
        token_words(token_ids)
    assert caught.value.details == {"position": position}


@pytest.mark.parametrize(
    ("type_code", "bad"), [("i", -1), ("i", -(2**31)), ("q", -1), ("q", 2**32), ("Q", 2**63), ("l", -5)]
)
@pytest.mark.parametrize("position", [0, 3, 20_000])
def test_integers_in_a_buffer_are_refused_with_their_position(type_code: str, bad: int, position: int) -> None:
    token_ids = array(type_code, [*range(position), bad, 1])
    forms: tuple[TokenIds, ...] = (token_ids, np.array(token_ids))
    for form in forms:
        with pytest.raises(InvalidArgument, match=f"^token {position} of token_ids is {bad};"):
            token_words(form)


@pytest.mark.parametrize(
    "buffer",
    [
        b"\1\0\0\0", bytearray(8), array("d", [1.0]), array("f", [1.0]), array("H", [1]), array("b", [1]),
        np.array([1.0]), np.array([True]), np.array([1], ">u4"), np.array([1 + 0j]), np.array(["a"]),
        np.array([1], object), np.array([[1, 2]]), np.array(1),
    ],
    ids=repr,
)  # fmt: skip
def test_a_buffer_of_anything_but_integers_of_32_or_64_bits_is_refused(buffer: TokenIds) -> None:
    with pytest.raises(InvalidArgument, match="integers of 32 or 64 bits"):
        token_words(buffer)


@pytest.mark.parametrize("other", [None, 7, {1: 2}, {1, 2}, iter([1]), np.array([1], "M8[s]"), object()])
def test_what_is_neither_a_sequence_nor_a_buffer_is_refused(other: TokenIds) -> None:
    with pytest.raises(InvalidArgument, match="pass a list of integers or an array of them"):
        token_words(other)


def test_text_is_no_list_of_token_ids() -> None:
    with pytest.raises(InvalidArgument, match="token 0 of token_ids is 'o'"):
        token_words("one")  # type: ignore[arg-type]


def test_no_token_ids_are_no_words() -> None:
    assert token_words([]) == token_words(array("q")) == b""

"""Reading JSON from strangers."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo._core.errors import InvalidArgument
from dynamo.frontend._json import DEPTH_MAX, VALUES_MAX, loads


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"{}{}", "not JSON"),
        (b"\xff", "not UTF-8"),
        (b'{"a": "\xc3"}', "not UTF-8"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b'"\\ud800"', "surrogate"),
        (b'{"\\udc00": 1}', "surrogate"),
        (b"[NaN]", "NaN is not"),
        (b"[-Infinity]", "-Infinity is not"),
        (b"[1e999]", "too large"),
        (b"[" + b"9" * 100_000 + b"]", "an integer has too many digits"),
        (b"[" + b"{}," * VALUES_MAX + b"{}]", "more than 2097152 values"),
        (b"[" + b"," * (VALUES_MAX + 1) + b'"' + b'\\"' * VALUES_MAX, "more than 2097152 values"),
        (b'["\\"", ' + b"1," * VALUES_MAX + b"1]", "more than 2097152 values"),
        (b'{"a": 1, "b": 2, "a": 3}', "'a' stands twice"),
        (b"[" * 100_000 + b"]" * 100_000, "nested"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested"),
        (b"[" * (DEPTH_MAX + 1) + b"]" * (DEPTH_MAX + 1), "nested"),
    ],
)
def test_what_is_not_plain_json_is_refused_in_words(body: bytes, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        loads(body)


@pytest.mark.parametrize(
    "body",
    [
        b' {"a": [1, 2.5, null, true, "x"]}\n',
        b'"\\ud83d\\ude42"',
        b"[" * DEPTH_MAX + b"]" * DEPTH_MAX,
        b"[[]," * 50 + b"0" + b"]" * 50,
        b'["' + b'{[,\\",\\\\' * VALUES_MAX + b'"]',
        b"[" + b"1," * (VALUES_MAX // 2) + b"1]",
    ],
)
def test_what_is_plain_json_is_read(body: bytes) -> None:
    assert loads(body) == json.loads(body)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_every_json_value_is_read_as_it_was_written(value: object) -> None:
    assert loads(json.dumps(value).encode()) == value


@given(st.binary(max_size=64) | st.text('{}[]":,\\ud8e0919.N-', max_size=64).map(str.encode))
def test_garbage_is_refused_and_nothing_else_happens(body: bytes) -> None:
    with contextlib.suppress(InvalidArgument):
        loads(body)

"""Values come back as they were sent, or are refused with a clear error, on either side."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo._core.errors import InvalidArgument
from dynamo.runtime import Annotated, _codec

keys = st.one_of(st.text(max_size=5), st.integers(-(2**63), 2**64 - 1), st.booleans(), st.none())
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(), st.binary()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=10,
)


def same(one: object, other: object) -> bool:
    return repr(one) == repr(other)  # NaN is equal to nothing, but looks the same


@given(values)
def test_a_value_comes_back_as_it_was(value: object) -> None:
    item = _codec.encode(value)
    assert same(_codec.decode_plain(item), value)
    assert same(_codec.decode_annotated(item).data(), value)


@given(values, st.none() | st.text(), st.lists(st.text(), max_size=2), st.none() | st.text())
def test_what_is_said_beside_the_data_comes_back(
    value: object, event: str | None, comments: list[str], id: str | None
) -> None:
    sent = Annotated(value, event, comments, id)  # type: ignore[arg-type]
    item = _codec.encode(sent)
    assert same(_codec.decode_annotated(item), sent)
    assert same(_codec.decode_plain(item), value)


def test_numbers_that_are_none_come_back() -> None:
    assert math.isnan(_codec.decode_plain(_codec.encode(math.nan)))  # type: ignore[arg-type]
    assert _codec.decode_plain(_codec.encode(-math.inf)) == -math.inf


def nested(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, "\ud800", {"\udc80": 1}, nested(100_000)], ids=range(5))
@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: Annotated(value)], ids=["plain", "annotated"])
def test_what_cannot_be_sent_is_an_invalid_argument(value: object, wrap: object) -> None:
    with pytest.raises(InvalidArgument, match="cannot be sent"):
        _codec.encode(wrap(value))  # type: ignore[operator]


@given(st.binary(max_size=100))
def test_a_request_of_any_bytes_is_read_or_refused(payload: bytes) -> None:
    for decode in (_codec.decode_plain, _codec.decode_annotated, _codec.typed_decoder(dict[str, int])):
        with contextlib.suppress(InvalidArgument):
            _codec.decode_request(payload, decode)


@pytest.mark.parametrize("start", [b"", b"\xc1"], ids=["plain", "annotated"])
def test_a_request_that_is_nested_too_deep_is_refused(start: bytes) -> None:
    with pytest.raises(InvalidArgument, match="invalid request"):
        _codec.decode_request(start + b"\x91" * 100_000 + b"\xc0", _codec.decode_plain)

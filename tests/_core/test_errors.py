"""Every error can cross the network, whatever is in it, and arrives as what it was."""

from __future__ import annotations

import itertools
from http import HTTPStatus

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo._core.errors import (
    CannotConnect,
    Disconnected,
    DynamoError,
    HandlerError,
    IncompatibleVersion,
    Overloaded,
    Stalled,
    Unauthorized,
    WireError,
    from_wire,
    to_wire,
)
from dynamo._core.limits import ERROR_CAUSES_MAX, ERROR_MESSAGE_CHARS_MAX

# What a careless or hostile author may put into an error.
anything = st.one_of(
    st.none(),
    st.text(st.characters()),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.binary(),
    st.builds(object),
    st.lists(st.integers(), max_size=2),
    st.just("\udc80 from a file name"),
)


def over_the_network(error: BaseException) -> DynamoError:
    layers = msgspec.msgpack.encode(to_wire(error))
    return from_wire(msgspec.msgpack.decode(layers, type=list[WireError]))


@given(anything, st.dictionaries(st.text(max_size=5), anything, max_size=3))
def test_every_error_can_be_sent(message: object, details: dict[str, object]) -> None:
    error = Overloaded(message, **details)  # type: ignore[arg-type]
    received = over_the_network(error)
    assert type(received) is Overloaded
    assert set(received.details) == {key.encode("utf-8", "replace").decode() for key in details}


def test_details_keep_the_values_that_a_detail_may_have() -> None:
    details: dict[str, str | int | float] = {
        "limit": 3,
        "load": 0.5,
        "name": "a",
        "message": "mine",
        "self": "too",
        "type_name": "x",
    }
    assert over_the_network(Overloaded("full", **details)).details == details
    assert from_wire([WireError(HandlerError.code, "no", {"message": "m", "self": 1})]).details == {
        "message": "m",
        "self": 1,
    }


class Degrees(float):
    pass


@pytest.mark.parametrize(("detail", "value"), [(True, 1), (HTTPStatus.OK, 200), (Degrees(1.5), 1.5)], ids=str)
def test_a_detail_of_a_kind_of_number_arrives_as_that_number(detail: float, value: float) -> None:
    assert over_the_network(Overloaded("full", detail=detail)).details == {"detail": value}


def test_an_error_that_cannot_be_shown_still_arrives() -> None:
    class BrokenError(Exception):
        def __str__(self) -> str:
            raise AttributeError("no such thing")

    received = over_the_network(BrokenError())
    assert isinstance(received, HandlerError)
    assert received.type_name == "BrokenError"


def test_an_error_in_a_group_is_not_lost() -> None:
    group = ExceptionGroup("unhandled errors in a TaskGroup", [ValueError("the reason"), KeyError("other")])
    received = over_the_network(group)
    assert isinstance(received.__cause__, HandlerError)
    assert str(received.__cause__) == "ValueError: the reason"


def test_a_cycle_of_causes_ends() -> None:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    assert [layer.message for layer in to_wire(one)] == ["one", "two"]


def test_a_hostile_peer_cannot_send_an_error_without_bounds() -> None:
    received = from_wire([WireError("overloaded", "x" * 1_000_000)] * 1000)
    assert len(received.message) == ERROR_MESSAGE_CHARS_MAX
    chain = list(itertools.takewhile(lambda error: error is not None, _chain(received)))
    assert len(chain) == ERROR_CAUSES_MAX


def _chain(error: BaseException) -> list[BaseException]:
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    return chain


@pytest.mark.parametrize("layers", [[], [WireError("from the future", "?")]], ids=["empty", "unknown code"])
def test_an_error_that_we_do_not_know_is_an_error(layers: list[WireError]) -> None:
    assert type(from_wire(layers)) is DynamoError


@pytest.mark.parametrize(
    ("kind", "parent"),
    [(Unauthorized, CannotConnect), (IncompatibleVersion, CannotConnect), (Stalled, Disconnected)],
)
def test_an_error_that_is_a_kind_of_another_arrives_as_itself(
    kind: type[DynamoError], parent: type[DynamoError]
) -> None:
    received = over_the_network(kind("no"))
    assert type(received) is kind
    assert isinstance(received, parent)


@pytest.mark.parametrize(
    ("hint", "seconds"), [(1.5, 1.5), (0, 0), (-1, None), ("1", None), (float("inf"), None), (float("nan"), None)]
)
def test_when_to_come_again_is_a_time_or_nothing_whatever_a_peer_says(hint: str | float, seconds: float | None) -> None:
    received = over_the_network(Overloaded("full", retry_after_s=hint))
    assert isinstance(received, Overloaded)
    assert received.retry_after_s == seconds

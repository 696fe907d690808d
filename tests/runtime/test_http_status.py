"""From an error to an HTTP status."""

from __future__ import annotations

import pytest

from dynamo._core import errors
from dynamo._core.errors import DynamoError, InvalidArgument, NoInstances, Overloaded
from dynamo.runtime._http_status import STATUS, retry_after_s, status_of


class TooLong(InvalidArgument):
    code = "too_long"


class Unheard(DynamoError):
    code = "unheard"


def test_every_error_of_the_tree_has_a_status() -> None:
    tree = {error.code for error in vars(errors).values() if isinstance(error, type) and issubclass(error, DynamoError)}
    assert tree == STATUS.keys()


def test_an_error_without_a_status_has_that_of_what_it_is_derived_from() -> None:
    assert (status_of(TooLong("no")), status_of(Unheard("no"))) == (400, 500)


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (Overloaded("full", retry_after_s=2.1), 3),
        (Overloaded("full", retry_after_s=0.01), 1),
        (Overloaded("full"), 1),
        (Overloaded("full", retry_after_s="soon"), 1),
        (Overloaded("full", retry_after_s=float("nan")), 1),
        (Overloaded("full", retry_after_s=-1), 1),
        (NoInstances("nobody"), 1),
    ],
)
def test_a_client_is_told_to_come_again_after_what_the_error_says_in_whole_seconds(
    error: DynamoError, seconds: int
) -> None:
    assert retry_after_s(error) == seconds

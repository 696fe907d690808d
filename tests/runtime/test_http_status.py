"""From an error to an HTTP status."""

from __future__ import annotations

from dynamo._core import errors
from dynamo._core.errors import DynamoError, InvalidArgument
from dynamo.runtime._http_status import STATUS, status_of


class TooLong(InvalidArgument):
    code = "too_long"


class Unheard(DynamoError):
    code = "unheard"


def test_every_error_of_the_tree_has_a_status() -> None:
    tree = {error.code for error in vars(errors).values() if isinstance(error, type) and issubclass(error, DynamoError)}
    assert tree == STATUS.keys()


def test_an_error_without_a_status_has_that_of_what_it_is_derived_from() -> None:
    assert (status_of(TooLong("no")), status_of(Unheard("no"))) == (400, 500)

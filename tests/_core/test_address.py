"""Names of endpoints, as people write them."""

from __future__ import annotations

import pytest

from dynamo._core.address import EndpointId
from dynamo._core.errors import InvalidArgument


@pytest.mark.parametrize("path", ["ns.comp.ep", "dyn://ns.comp.ep", "ns/comp/ep", "dyn://ns/comp/ep"])
def test_an_endpoint_is_written_with_dots_or_with_slashes(path: str) -> None:
    assert EndpointId.parse(path) == EndpointId("ns", "comp", "ep")


def test_where_there_are_dots_a_slash_is_part_of_a_name() -> None:
    assert EndpointId.parse("ns.comp.chat/completions") == EndpointId("ns", "comp", "chat/completions")


@pytest.mark.parametrize("path", ["", "ns", "ns.comp", "ns/comp", "a.b.c.d", "a/b/c/d", "ns..ep", "ns//ep"])
def test_what_has_not_three_names_is_refused(path: str) -> None:
    with pytest.raises(InvalidArgument):
        EndpointId.parse(path)

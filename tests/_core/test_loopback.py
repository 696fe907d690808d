"""Which addresses only this machine reaches."""

from __future__ import annotations

import pytest

from dynamo._core.loopback import is_loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_an_address_of_this_machine_only(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com", ""])
def test_an_address_that_others_may_reach(host: str) -> None:
    assert not is_loopback(host)

"""What tests with real faults share."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator

import pytest
from tests.system import namespaces

if sys.platform != "linux":
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture
async def elsewhere() -> AsyncIterator[namespaces.Namespace]:
    """A second host. Skips where none can be made, and says why."""
    if (reason := namespaces.why_not()) is not None:
        pytest.skip(reason)
    there = namespaces.Namespace.of_this_process()
    try:
        await there.make()
    except OSError as error:
        await there.remove()
        pytest.skip(f"this kernel lets us make no network namespace: {error}")
    try:
        yield there
    finally:
        await there.remove()

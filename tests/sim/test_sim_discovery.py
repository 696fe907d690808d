"""The discovery of the simulation is held to the suites of the shipped ones, on the virtual clock."""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conformance import test_discovery, test_discovery_watches
from tests.conformance.test_discovery_watches import Operation, follow_a_history, operations
from tests.sim.discovery import DiscoveryServer
from tests.sim.loop import SimLoop, run

from dynamo._core.discovery import Discovery

# Each of the suites' tests, with the fixtures of this module.
for suite in (test_discovery, test_discovery_watches):
    tests = vars(suite).items()
    globals().update(
        {name: test for name, test in tests if name.startswith("test_") and inspect.iscoroutinefunction(test)}
    )


def open_two(loop: SimLoop) -> tuple[Discovery, Discovery]:
    """Return two parties that should see each other: what is done is seen at once, as the suites expect."""
    server = DiscoveryServer(loop)
    server.lag_s = 0.0, 0.0
    return server.party(loop.network.host("one")), server.party(loop.network.host("other"))


@pytest_asyncio.fixture
async def two() -> AsyncIterator[tuple[Discovery, Discovery]]:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimLoop)
    first, second = open_two(loop)
    yield first, second
    await first.close()
    await second.close()


@pytest.fixture
def discovery(two: tuple[Discovery, Discovery]) -> Discovery:
    return two[0]


@given(history=operations, seed=st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_watches_and_gets_agree_with_the_simplest_model(history: list[Operation], seed: int) -> None:
    async def main(loop: SimLoop) -> None:
        await follow_a_history(lambda: open_two(loop), history, random.Random(seed))

    run(main, seed)

"""Tests here that are coroutines run on the virtual clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
from tests.sim.loop import SimLoop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"virtual": lambda: SimLoop(item.name)}

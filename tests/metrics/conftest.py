"""Fixtures for metrics."""

from __future__ import annotations

import pytest
from tests.metrics.reading import World


@pytest.fixture
def world() -> World:
    return World()

"""Fixtures that every folder of tests may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from tests.tiny_model import tiny_model_path

# What a worker does wrong is left out of an answer where that is possible; in a test it is an error.
os.environ["DYN_STRICT_CONTRACTS"] = "1"

# How long an example takes says what else this machine does, and nothing about what is tested.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

#: Folders with the files that take longest, since they start processes. They are first, and what is quick fills up.
LONGEST = {"docs", "system", "cli", "examples"}


@pytest.hookimpl(trylast=True)  # after the order was made a random one
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.isdisjoint(item.path.relative_to(config.rootpath).parts))


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """The folder of a real, tiny Llama with random weights."""
    return tiny_model_path()

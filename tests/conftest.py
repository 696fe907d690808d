"""Fixtures that every folder of tests may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.tiny_model import tiny_model_path

# What a worker does wrong is left out of an answer where that is possible; in a test it is an error.
os.environ["DYN_STRICT_CONTRACTS"] = "1"

#: Folders with the files that take longest, since they start processes. They are first, and what is quick fills up.
LONGEST = {"docs", "system", "cli", "examples"}


@pytest.hookimpl(trylast=True)  # after the order was made a random one
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.isdisjoint(item.path.relative_to(config.rootpath).parts))


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """The folder of a real, tiny Llama with random weights."""
    return tiny_model_path()

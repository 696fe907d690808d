"""Fixtures that every folder of tests may use."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.tiny_model import tiny_model_path


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """The folder of a real, tiny Llama with random weights."""
    return tiny_model_path()

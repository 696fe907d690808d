"""Fixtures that every folder of tests may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.tiny_model import tiny_model_path

# What a worker does wrong is left out of an answer where that is possible; in a test it is an error.
os.environ["DYN_STRICT_CONTRACTS"] = "1"


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """The folder of a real, tiny Llama with random weights."""
    return tiny_model_path()

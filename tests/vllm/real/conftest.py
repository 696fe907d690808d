"""These tests need vLLM. `scripts/test-vllm` makes an environment that has it; in others they are not collected."""

from __future__ import annotations

import importlib.metadata
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.vllm.real.scene import Scene, World

try:
    importlib.metadata.version("vllm")
except importlib.metadata.PackageNotFoundError:
    collect_ignore_glob = ["test_*.py"]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def world(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> AsyncIterator[World]:
    """Processes that all tests share, since starting vLLM takes most of the time."""
    async with World(tmp_path_factory.mktemp("world"), tiny_model) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="session")
async def scene(world: World) -> Scene:
    """A KV routing frontend with two vLLM workers: those that a test has killed are replaced."""
    return await world.scene()


@pytest_asyncio.fixture(loop_scope="session")
async def scene_of_one(world: World) -> Scene:
    """The same, for a test that does with one worker."""
    return await world.scene(1)

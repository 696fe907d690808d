"""Fixtures for graphs that are served by real processes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.cli.serving import Serving, environment_of

Serve = Callable[..., Awaitable[Serving]]


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """Run `dynamo serve` in a folder, with its own discovery."""
    async with AsyncExitStack() as stack:

        async def serve(*arguments: str, cwd: Path = tmp_path, **variables: str) -> Serving:
            environment = {**environment_of(tmp_path / "discovery"), **variables}
            return await stack.enter_async_context(await Serving.start(*arguments, cwd=cwd, environment=environment))

        yield serve

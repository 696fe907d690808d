"""Fixtures for commands that run as real processes."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.cli.running import PLAIN, Running, Start, command
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


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The environment, with a discovery of the test's own."""
    return environment_of(tmp_path / "discovery") | PLAIN


@pytest.fixture
async def start(environment: dict[str, str]) -> AsyncIterator[Start]:
    """Run the command beside the test."""
    async with AsyncExitStack() as stack:

        async def start(*arguments: str) -> Running:
            process = await asyncio.create_subprocess_exec(
                *command(*arguments), env=environment, stdout=PIPE, stderr=asyncio.subprocess.STDOUT
            )
            running = Running(process)
            stack.push_async_callback(running.close)
            return running

        yield start

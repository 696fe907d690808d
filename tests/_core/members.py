"""Other processes that join, and readers that do not wait for ever."""

# ruff: noqa: ASYNC110 - what is tested are tiny files, which tell nobody when they change

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

from dynamo._core.discovery import Change, Synced
from dynamo._core.discovery.file import FileDiscovery

DEADLINE_S = 60.0

# Joins, says so, does what the test wants of it, and stays until it is killed.
MEMBER = """
import asyncio, os, subprocess, sys
from dynamo._core.discovery.file import FileDiscovery

async def main():
    discovery = FileDiscovery(sys.argv[1])
    lease = await discovery.grant()
    await discovery.put(f"member/{{os.getpid()}}", b"here", lease)
    {then}
    print("joined", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@asynccontextmanager
async def member(directory: Path, then: str = "pass") -> AsyncIterator[asyncio.subprocess.Process]:
    """Another process that has joined."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", MEMBER.format(then=then), str(directory), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(DEADLINE_S):
            assert await process.stdout.readline() == b"joined\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@asynccontextmanager
async def synced(discovery: FileDiscovery) -> AsyncIterator[AsyncGenerator[Change, None]]:
    """A watch of everything that has said what there was."""
    async with aclosing(discovery.watch("")) as changes:
        while not isinstance(await read(changes), Synced):
            pass
        yield changes


async def read(changes: AsyncGenerator[Change, None]) -> Change:
    async with asyncio.timeout(DEADLINE_S):
        return await anext(changes)


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for something in the file system, which tells nobody when it happens."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.01)


def lease_files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.is_file() and not path.name.startswith("0" * 16))

"""The route example: the README's numbers, with its own servers."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from tests.free_port import free_port

EXAMPLE = Path(__file__).parents[2] / "examples" / "route"
README = (EXAMPLE / "README.md").read_text()
START_S = 90.0


@asynccontextmanager
async def started(words: str, *command: str) -> AsyncIterator[str]:
    """Run a command in the folder of the example until the end of the block; yield the line with these words."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *command, cwd=EXAMPLE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_S):
            while words not in (line := (await process.stdout.readline()).decode()):
                assert line, f"{command} ended"
        yield line.strip()
    finally:
        process.kill()
        await process.communicate()


async def cached_percent(url: str) -> int:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "talk.py", url, cwd=EXAMPLE, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    said = re.fullmatch(r"(\d+) % of the words were cached\n", out.decode())
    assert said, out
    return int(said[1])


async def test_conversations_find_what_they_have_said_before() -> None:
    promised = re.search(r"^(\d+) % of the words were cached$", README, re.MULTILINE)
    assert promised
    cached = {mode: await percent_with(mode) for mode in ("kv", "round-robin")}
    assert abs(cached["kv"] - int(promised[1])) <= 10
    assert cached["round-robin"] < cached["kv"]


async def percent_with(mode: str) -> int:
    """Start everything as the README says, on free ports, and talk."""
    async with AsyncExitStack() as stack:
        backends = []
        for _ in range(README.count("uvicorn server:app")):
            port = free_port()
            await stack.enter_async_context(started("Uvicorn running", "uvicorn", "server:app", "--port", str(port)))
            backends += ["--backend", f"http://127.0.0.1:{port}"]
        line = await stack.enter_async_context(
            started("listening on", "dynamo.cli", "route", *backends, "--http-port", "0", "--router-mode", mode)
        )
        return await cached_percent(line.rpartition(" ")[2])

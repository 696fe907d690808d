"""A program that serves HTTP, and gets a signal while it streams an answer."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import httpx

DEADLINE_S = 60.0


@dataclass(frozen=True)
class Ended:
    """How the program and its answer ended."""

    status: int | None
    errors: str
    last_line: str


async def signalled_amid_answer(
    arguments: Sequence[str],
    environment: dict[str, str],
    number: signal.Signals,
    *,
    ready: str,
    path: str,
    body: Mapping[str, object],
) -> Ended:
    """Run Python with these arguments, post the body, signal at the first line of the answer, and read the others.

    `ready` is a pattern for the line of stdout that has the URL, as its group.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, env=environment, stdout=PIPE, stderr=PIPE
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            assert process.stdout is not None
            while (found := re.search(ready, line := (await process.stdout.readline()).decode())) is None:
                assert line, "it ended before it was ready"
            async with (
                httpx.AsyncClient(base_url=found[1], timeout=DEADLINE_S) as client,
                client.stream("POST", path, json={**body, "stream": True}) as response,
            ):
                lines = response.aiter_lines()
                await anext(lines)
                process.send_signal(number)
                rest = [line async for line in lines if line]
            _, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    return Ended(process.returncode, errors.decode(), rest[-1])

"""`dynamo run`, run by tests as a user runs it."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable

from tests.cli.serving import DEADLINE_S

PLAIN = {"COLUMNS": "120", "NO_COLOR": "1", "TERM": "dumb"}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "dynamo.cli", "run", *arguments]


def run(environment: dict[str, str], *arguments: str, piped: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        command(*arguments),
        check=False,
        input=piped,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env=environment,
    )


class Running:
    """A command that runs, and the lines that it prints."""

    def __init__(self, process: Process) -> None:
        self.process = process

    async def line(self, pattern: str) -> re.Match[str]:
        """Return the next line of the output that has the pattern, waiting for it."""
        assert self.process.stdout is not None
        seen = ""
        async with asyncio.timeout(DEADLINE_S):
            while line := (await self.process.stdout.readline()).decode():
                seen += line
                if match := re.search(pattern, line):
                    return match
        raise AssertionError(f"no line has {pattern!r}:\n{seen}")

    async def interrupt(self) -> int:
        """Press Ctrl-C; return the exit status."""
        self.process.send_signal(signal.SIGINT)
        async with asyncio.timeout(DEADLINE_S):
            await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode

    async def close(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
            await self.process.communicate()


Start = Callable[..., Awaitable[Running]]

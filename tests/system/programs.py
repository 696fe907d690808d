"""Real processes for the tests of faults: started, heard line by line, and hurt by signals.

A fault that did not happen proves nothing, so each method that makes one returns only when the kernel
says that it took effect.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

DEADLINE_S = 90.0
POLL_S = 0.01
#: The lines that are kept of one process.
LINES_MAX = 20_000


class Program:
    """One process: what it has said, what state it is in, and how it ended."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self._said = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def start(
        cls, *command: str, environment: dict[str, str], before: Sequence[str] = (), directory: Path | None = None
    ) -> Self:
        """Run a module of Python with its arguments; `before` is a command that runs it, such as `ip netns exec`."""
        return cls(
            await asyncio.create_subprocess_exec(
                *before,
                sys.executable,
                "-m",
                *command,
                env=environment,
                cwd=directory,
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=STDOUT,
                start_new_session=True,
            )
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def ended(self) -> bool:
        return self.process.returncode is not None

    async def line(self, pattern: str, *, after: int = 0) -> re.Match[str]:
        """Return the first match in its lines from number `after` on, waiting for it."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                for line in self.lines[after:]:
                    if match := re.search(pattern, line):
                        return match
                if self._reader.done():
                    raise AssertionError(f"it ended without a line like {pattern!r}:\n{self.text}")
                self._said.clear()
                await self._said.wait()

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    # Faults.

    async def kill(self) -> None:
        """SIGKILL: return when it is dead."""
        self.process.kill()
        await self.exit_status()
        assert self.process.returncode == -signal.SIGKILL, f"it had ended before with {self.process.returncode}"

    async def freeze(self) -> None:
        """SIGSTOP: return when no thread of it runs."""
        self.process.send_signal(signal.SIGSTOP)
        await until(lambda: self.state() == "T")

    async def thaw(self) -> None:
        """SIGCONT: return when it runs again."""
        self.process.send_signal(signal.SIGCONT)
        await until(lambda: self.state() != "T")

    def terminate(self) -> None:
        """SIGTERM: ask for an orderly end."""
        self.process.send_signal(signal.SIGTERM)

    async def exit_status(self) -> int:
        """Wait for the end, and for all that it has said."""
        async with asyncio.timeout(DEADLINE_S):
            status = await self.process.wait()
            await self._reader
        return status

    # What the kernel knows of it.

    def state(self) -> str:
        """Its state as a letter: R and S run, T is stopped, Z is dead."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]

    def num_fds(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def num_threads(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/task"))

    def rss_bytes(self) -> int:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) * 1024

    async def close(self) -> None:
        """End it, whatever became of it. SIGKILL also ends what is stopped."""
        if not self.ended:
            self.process.kill()
        await self.process.wait()
        await self._reader

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            if len(self.lines) < LINES_MAX:
                self.lines.append(line.decode(errors="replace").rstrip("\n"))
            self._said.set()
        self._said.set()


@asynccontextmanager
async def running(*command: str, environment: dict[str, str], before: Sequence[str] = ()) -> AsyncIterator[Program]:
    """Run a module of Python; kill it at the end."""
    program = await Program.start(*command, environment=environment, before=before)
    try:
        yield program
    finally:
        await program.close()


async def until(condition: Callable[[], bool], *, within_s: float = DEADLINE_S) -> None:
    """Wait for something that the kernel tells nobody."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)


def environment_of(discovery: str, **variables: str) -> dict[str, str]:
    """The environment of a cluster's processes, with nothing of the user's own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DYN_", "DYNAMO_"))}
    ours = {"DYN_DISCOVERY": discovery, "PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return {**kept, **ours, **variables}

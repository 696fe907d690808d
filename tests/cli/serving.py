"""`dynamo serve` as a real process, for tests: started, read line by line, ended, and looked after."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from pathlib import Path

DEADLINE_S = 150.0


class Serving:
    """One `dynamo serve`: its output so far, and the processes that it has."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.out: list[str] = []
        self.err: list[str] = []
        self._changed = asyncio.Event()
        assert process.stdout is not None
        assert process.stderr is not None
        self._readers = [
            asyncio.create_task(self._read(process.stdout, self.out)),
            asyncio.create_task(self._read(process.stderr, self.err)),
        ]

    @classmethod
    async def start(cls, *arguments: str, cwd: Path, environment: dict[str, str]) -> Serving:
        """Run `dynamo serve` with these arguments."""
        command = [sys.executable, "-m", "dynamo.cli", "serve", *arguments]
        # In a session of its own, as in a terminal of its own: a signal to its group reaches nothing of ours.
        return cls(
            await asyncio.create_subprocess_exec(
                *command, cwd=cwd, env=environment, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, start_new_session=True
            )
        )

    async def __aenter__(self) -> Serving:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    async def line(self, pattern: str) -> re.Match[str]:
        """Return the first line of the output that the pattern is found in, waiting for it."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                for line in [*self.out, *self.err]:
                    if match := re.search(pattern, line):
                        return match
                if all(reader.done() for reader in self._readers):
                    raise AssertionError(f"no line has {pattern!r}:\n{self.text}")
                self._changed.clear()
                await self._changed.wait()

    async def ready(self) -> str:
        """Wait until it is ready; return the URL that it says, if any."""
        match = await self.line(r"^ready in \d+\.\d s: (?:.*?(http://\S+?)(?:,|$))?")
        return match[1] or ""

    async def exit_status(self) -> int:
        """Wait for the end, and for all that it has printed."""
        async with asyncio.timeout(DEADLINE_S):
            status = await self.process.wait()
            await asyncio.gather(*self._readers)
        return status

    def interrupt(self) -> None:
        """What Ctrl-C does if nobody else is in the foreground."""
        self.process.send_signal(signal.SIGINT)

    def worker_pids(self) -> list[int]:
        """The processes that it has started, by what the kernel says."""
        return children_of(self.process.pid)

    def workers(self) -> dict[str, int]:
        """The worker processes by their labels, such as `Backend:2`."""
        return workers_below(self.process.pid)

    @property
    def text(self) -> str:
        return "\n".join([*self.out, *self.err])

    async def close(self) -> None:
        """End it, whatever became of it."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        await asyncio.gather(*self._readers)

    async def _read(self, reader: asyncio.StreamReader, lines: list[str]) -> None:
        while line := await reader.readline():
            lines.append(line.decode().rstrip("\n"))
            self._changed.set()
        self._changed.set()


def children_of(pid: int) -> list[int]:
    """The direct children of a process."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def workers_below(pid: int) -> dict[str, int]:
    """The workers that a process has started, by their labels, such as `Backend:2`."""
    found = {}
    for child in children_of(pid):
        try:
            words = Path(f"/proc/{child}/cmdline").read_text().split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
        if "--service-name" in words:
            name, number = (words[words.index(option) + 1] for option in ("--service-name", "--worker-id"))
            found[f"{name}:{number}"] = child
    return found


async def all_gone(pids: list[int]) -> None:
    """Wait until none of the processes runs any more."""
    async with asyncio.timeout(DEADLINE_S):
        while any(_runs(pid) for pid in pids):  # noqa: ASYNC110 - the kernel tells nobody but the parent
            await asyncio.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def environment_of(directory: Path) -> dict[str, str]:
    """The environment with a discovery directory of the test's own."""
    hidden = ("DYNAMO_", "DYN_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    return {**kept, "DYN_DISCOVERY": f"file://{directory}", "DYN_STRICT_CONTRACTS": "1"}


def readme_commands(example: Path, program: str) -> list[list[str]]:
    """The arguments of each command of a README that runs `program`."""
    lines = (example / "README.md").read_text().splitlines()
    return [shlex.split(line)[len(program.split()) :] for line in lines if line.startswith(f"{program} ")]

"""Child processes of a benchmark: started together, watched, and ended whatever happens.

A child that measures writes its figures as JSON to the file named by `--report`, so that nothing it or
its libraries print can be mistaken for a figure. What children print goes to one log file per child,
whose end is shown if the child fails.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from benchmarks.systems import ROOT, System

_LOG_TAIL_CHARS = 3000
_STOP_S = 10.0


class BenchmarkFailed(Exception):
    """A process under test failed, or delivered something wrong."""


class Child:
    """One running process and its log."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self.pid = process.pid
        self._process = process
        self._log = log

    async def ended(self) -> None:
        """Wait until the process ends. Raises unless it ended well."""
        code = await self._process.wait()
        if code:
            raise BenchmarkFailed(f"{self.name} failed with exit status {code}{self.output()}")

    def check_alive(self) -> None:
        """Raise unless the process still runs."""
        if self._process.returncode is not None:
            raise BenchmarkFailed(
                f"{self.name} ended early, with exit status {self._process.returncode}{self.output()}"
            )

    async def stop(self) -> None:
        """End the process: politely first, then not."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._process.returncode is not None:
                return
            os.killpg(self.pid, number)
            try:
                await asyncio.wait_for(self._process.wait(), _STOP_S)
            except TimeoutError:
                continue

    def output(self) -> str:
        """Return the end of what the process printed, for a message."""
        text = self._log.read_text(errors="replace")[-_LOG_TAIL_CHARS:].strip()
        return f"; its output ends with:\n{text}" if text else "; it printed nothing"


class Stage:
    """A directory for one run of one system, and the processes started in it."""

    def __init__(self, system: System, directory: Path) -> None:
        self.system = system
        self.directory = directory
        self._numbers = itertools.count()
        self._children: list[Child] = []

    async def start(self, module: str, *arguments: str, python: str | None = None) -> Child:
        """Start `python -m module`, with this system's Python unless told, to meet the stage's other processes."""
        log = self.directory / f"{next(self._numbers)}.log"
        meeting_place = self.directory / "discovery"
        meeting_place.mkdir(exist_ok=True)
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                python or self.system.python, "-m", module, *arguments,
                cwd=ROOT, env=self.system.environment(meeting_place), start_new_session=True,
                stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip
        child = Child(f"{self.system.name}: {module}", process, log)
        self._children.append(child)
        return child

    async def measure(self, module: str, *arguments: str, deadline_s: float, python: str | None = None) -> Any:
        """Run a child that measures to its end, while the others must stay alive, and return what it reported."""
        report = self.directory / f"{next(self._numbers)}.json"
        others = list(self._children)
        child = await self.start(module, *arguments, "--report", str(report), python=python)
        ends = [asyncio.ensure_future(one.ended()) for one in (child, *others)]
        try:
            done, _ = await asyncio.wait(ends, timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
        for end in done:
            end.result()
        for other in others:
            other.check_alive()
        if not done:
            raise BenchmarkFailed(f"{child.name} is not done after {deadline_s:.0f} s{child.output()}")
        self._children.remove(child)
        return json.loads(report.read_text())

    async def close(self) -> None:
        await asyncio.gather(*(child.stop() for child in reversed(self._children)))


@asynccontextmanager
async def stage(system: System) -> AsyncIterator[Stage]:
    """Give a system a fresh place to run in; its processes end with the block."""
    with tempfile.TemporaryDirectory(prefix="dynamo-bench-") as name:
        opened = Stage(system, Path(name))
        try:
            yield opened
        finally:
            await opened.close()

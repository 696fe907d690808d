"""A worker without a process, for tests of those who keep workers running."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dynamo.sdk._status import Ready, Report, Starting


class FakeWorker:
    """A process that does what the test says, and knows what it was told."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self.report: Report = Starting("waiting")
        self.started, self.ended = asyncio.Event(), asyncio.Event()
        self.told: list[str] = []
        self.exit_status: int | None = None
        self.how_it_ended = "killed by SIGKILL"
        self.is_done = False
        self._end = asyncio.Event()

    @property
    def is_ready(self) -> bool:
        return isinstance(self.report, Ready) and not self.ended.is_set()

    @property
    def has_stopped(self) -> bool:
        return self.ended.is_set()

    async def run(self) -> None:
        self.started.set()
        await self._end.wait()
        self.exit_status = 0 if self.is_done else -9
        self.ended.set()
        self._on_change()

    def become_ready(self) -> None:
        self.say(Ready())

    def say(self, report: Report) -> None:
        self.report = report
        self._on_change()

    def terminate(self) -> None:
        self._hear("terminate")

    def retire(self) -> None:
        self._hear("retire")

    def kill(self) -> None:
        self._hear("kill")

    def _hear(self, word: str) -> None:
        self.told.append(word)
        self._end.set()

"""The workers of one plan: how a start ends, and how those end that others stand in for."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable

import pytest
from tests.sdk.fake_worker import FakeWorker

from dynamo.sdk._config import MergedConfig
from dynamo.sdk._console import Console
from dynamo.sdk._generation import Generation
from dynamo.sdk._plan import Plan, PlannedService
from dynamo.sdk._status import Starting

BACKEND, FRONTEND = (PlannedService(name, workers=1, envs={}, http=None) for name in ("Backend", "Frontend"))


class Scene:
    """A generation of two services, a worker each."""

    def __init__(self) -> None:
        self.workers: dict[str, FakeWorker] = {}
        plan = Plan("graph:Frontend", ".", MergedConfig(), [FRONTEND, BACKEND], [], [["Backend"], ["Frontend"]], [])
        self.generation = Generation(
            plan, self._launch, Console(io.BytesIO(), io.BytesIO(), {}), lambda: None, policy=None
        )

    def _launch(self, service: PlannedService, number: int, on_change: Callable[[], None]) -> FakeWorker:
        worker = self.workers[service.name] = FakeWorker(on_change)
        worker.is_done = True
        return worker

    async def start(self) -> asyncio.Task[None]:
        """Begin the start, and go on when all workers have been started."""
        starting = asyncio.create_task(self.generation.start(asyncio.get_running_loop().time()))
        for worker in self.workers.values():
            await worker.started.wait()
        return starting


@pytest.mark.parametrize("turns", range(6))
async def test_a_start_that_is_cancelled_as_something_changes_ends(turns: int) -> None:
    scene = Scene()
    starting = await scene.start()
    scene.workers["Backend"].say(Starting("something else"))
    for _ in range(turns):
        await asyncio.sleep(0)
    starting.cancel()
    await asyncio.wait([starting], timeout=60)
    assert starting.cancelled()
    await scene.generation.stop()


async def test_workers_that_others_stand_in_for_are_retired_ready_or_not() -> None:
    scene = Scene()
    starting = await scene.start()
    scene.workers["Backend"].become_ready()
    starting.cancel()
    await asyncio.wait([starting])
    assert await scene.generation.stop(replaced=["Backend", "Frontend"])
    assert [worker.told[0] for worker in scene.workers.values()] == ["retire", "retire"]


async def test_workers_that_nobody_stands_in_for_are_terminated() -> None:
    scene = Scene()
    starting = await scene.start()
    scene.workers["Backend"].become_ready()
    starting.cancel()
    await asyncio.wait([starting])
    assert await scene.generation.stop(replaced=["Other"])
    assert [worker.told[0] for worker in scene.workers.values()] == ["terminate", "terminate"]

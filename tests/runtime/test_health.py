"""Health checks: slow ones are false, and asked by one at a time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from dynamo.runtime import DistributedRuntime
from dynamo.runtime._health import HealthKind, Verdict

DEADLINE_S = 60.0


@pytest.fixture
async def runtime() -> AsyncIterator[DistributedRuntime]:
    async with DistributedRuntime(discovery="memory:", request_plane="inproc:") as runtime:
        runtime.health.check_timeout_s = 0.05
        yield runtime


async def test_a_check_that_hangs_is_false_and_given_up(runtime: DistributedRuntime) -> None:
    cancelled = asyncio.Event()

    async def hangs() -> bool:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return True

    runtime.health.add(HealthKind.LIVENESS, "engine", hangs)
    assert await runtime.health.is_live() == Verdict(False, "engine gave no answer within 0.05 s")
    await asyncio.wait_for(cancelled.wait(), DEADLINE_S)


async def test_a_check_that_blocks_keeps_neither_the_loop_nor_a_thread_for_each_probe(
    runtime: DistributedRuntime,
) -> None:
    calls: list[str] = []
    release = threading.Event()

    def blocks() -> bool:
        calls.append(threading.current_thread().name)
        return release.wait(DEADLINE_S)

    check = runtime.health.add(HealthKind.LIVENESS, "engine", blocks)
    for _ in range(3):
        assert not (await runtime.health.is_live()).is_good
    assert len(calls) == 1
    assert calls[0] != threading.main_thread().name
    release.set()
    async with asyncio.timeout(DEADLINE_S):
        while not (await check.verdict()).is_good:
            continue


async def test_probes_at_the_same_time_share_one_answer(runtime: DistributedRuntime) -> None:
    asked: list[int] = []

    async def ask() -> bool:
        asked.append(1)
        await asyncio.sleep(0)
        return True

    runtime.health.add(HealthKind.LIVENESS, "engine", ask)
    verdicts = await asyncio.gather(*(runtime.health.is_live() for _ in range(10)))
    assert all(verdict.is_good for verdict in verdicts)
    assert asked == [1]


async def test_a_probe_that_leaves_takes_no_answer_from_others(runtime: DistributedRuntime) -> None:
    begun, release = asyncio.Event(), asyncio.Event()

    async def ask() -> bool:
        begun.set()
        await release.wait()
        return True

    runtime.health.add(HealthKind.LIVENESS, "engine", ask)
    leaves = asyncio.create_task(runtime.health.is_live())
    await asyncio.wait_for(begun.wait(), DEADLINE_S)
    stays = asyncio.create_task(runtime.health.is_live())
    await asyncio.sleep(0)
    leaves.cancel()
    release.set()
    assert (await stays).is_good


async def test_the_log_hears_of_changes_only(runtime: DistributedRuntime, caplog: pytest.LogCaptureFixture) -> None:
    answers = [False, False, True, True, False]
    runtime.health.add(HealthKind.LIVENESS, "engine", lambda: answers.pop(0))
    caplog.set_level("INFO", "dynamo.runtime._health")
    for _ in range(5):
        await runtime.health.is_live()
    said = [record.getMessage() for record in caplog.records if record.name == "dynamo.runtime._health"]
    assert said == ["not healthy: engine is false", "healthy again: engine", "not healthy: engine is false"]


async def test_a_check_that_ends_while_it_is_asked_has_no_complaint(
    runtime: DistributedRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    begun = asyncio.Event()

    async def hangs() -> bool:
        begun.set()
        await asyncio.Event().wait()
        return True

    runtime.health.started = True
    for kind, ask in (
        (HealthKind.LIVENESS, runtime.health.is_live),
        (HealthKind.READINESS, runtime.health.is_ready),
    ):
        begun.clear()
        check = runtime.health.add(kind, "engine", hangs)
        probe = asyncio.create_task(ask())
        await asyncio.wait_for(begun.wait(), DEADLINE_S)
        runtime.health.started = False
        runtime.health.remove(check)
        verdict = await probe
        assert verdict == (
            Verdict(True) if kind is HealthKind.LIVENESS else Verdict(False, "it is starting or stopping")
        )
        runtime.health.started = True
    assert caplog.records == []

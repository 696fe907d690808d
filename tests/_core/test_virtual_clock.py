"""The loop on a virtual clock, as replays and simulations use it."""

from __future__ import annotations

import asyncio

import pytest

from dynamo._core.virtual_clock import START_S, Deadlock, Endless, Livelock, VirtualClockLoop, run_virtually


def test_a_day_takes_no_time() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        before = loop.time()
        await asyncio.sleep(86400.0)
        return loop.time() - before

    assert run_virtually(main()) == 86400.0


def test_timers_are_due_in_the_order_of_their_times() -> None:
    async def main() -> list[float]:
        seen: list[float] = []

        async def wait(delay_s: float) -> None:
            await asyncio.sleep(delay_s)
            seen.append(asyncio.get_running_loop().time() - START_S)

        await asyncio.gather(*map(wait, (3.0, 1.0, 2.0)))
        return seen

    assert run_virtually(main()) == [1.0, 2.0, 3.0]


def test_a_timer_that_was_cancelled_takes_no_time() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        loop.call_later(50.0, print).cancel()
        await asyncio.sleep(100.0)
        return loop.time() - START_S

    assert run_virtually(main()) == 100.0


def test_what_is_handed_to_a_thread_happens_in_the_loop() -> None:
    async def main() -> list[bool]:
        loop = asyncio.get_running_loop()
        inside = await asyncio.to_thread(lambda: asyncio.get_running_loop() is loop)
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 // 0)
        return [inside]

    assert run_virtually(main()) == [True]


def test_waiting_for_what_never_comes_is_an_error() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    loop = VirtualClockLoop()
    waiting = main()
    try:
        with pytest.raises(Deadlock):
            loop.run_until_complete(waiting)
    finally:
        (task,) = asyncio.all_tasks(loop)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.close()


def test_a_loop_that_never_waits_is_an_error() -> None:
    async def main() -> None:
        while True:  # noqa: ASYNC110
            await asyncio.sleep(0)

    with pytest.raises(Livelock):
        run_virtually(main())


def test_a_run_without_end_is_an_error() -> None:
    async def main() -> None:
        while True:  # noqa: ASYNC110
            await asyncio.sleep(10.0)

    with pytest.raises(Endless):
        run_virtually(main(), end_s=START_S + 100.0)

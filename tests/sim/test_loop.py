"""The simulated loop: its clock, its order, and hosts that stop and end."""

from __future__ import annotations

import asyncio
import gc
import time
import warnings
from collections.abc import AsyncGenerator, Callable

import pytest
from tests.sim.loop import Deadlock, Endless, Livelock, SimLoop, run


def test_an_hour_takes_no_time() -> None:
    async def main(loop: SimLoop) -> float:
        before = loop.time()
        await asyncio.sleep(3600.0)
        return loop.time() - before

    before = time.perf_counter()
    assert run(main, 0) == 3600.0
    assert time.perf_counter() - before < 60.0


def test_waiting_for_what_never_comes_is_an_error() -> None:
    async def main(loop: SimLoop) -> None:
        await asyncio.Event().wait()

    with pytest.raises(Deadlock):
        run(main, 0)


def test_a_run_without_end_is_an_error() -> None:
    async def main(loop: SimLoop) -> None:
        while True:  # noqa: ASYNC110
            await asyncio.sleep(10.0)

    with pytest.raises(Endless):
        run(main, 0)


def test_a_loop_that_never_waits_is_an_error() -> None:
    async def main(loop: SimLoop) -> None:
        while True:  # noqa: ASYNC110
            await asyncio.sleep(0)

    with pytest.raises(Livelock):
        run(main, 0)


def ticks(stop_s: float | None, for_s: float = 0.0, *, crash: bool = False) -> list[float]:
    """When a host ticks that should once a second, and is stopped or crashes meanwhile."""

    async def main(loop: SimLoop) -> list[float]:
        start_s, seen = loop.time(), []

        async def tick() -> None:
            while True:
                await asyncio.sleep(1.0)
                seen.append(loop.time() - start_s)

        host = loop.network.host("a")
        host.run(tick())
        if stop_s is not None:
            await asyncio.sleep(stop_s)
            if crash:
                loop.network.crash(host, silently=False)
            else:
                host.stop()
            await asyncio.sleep(for_s)
            host.go_on()
        await asyncio.sleep(start_s + 5.75 - loop.time())
        return seen

    return run(main, 0)


def test_a_host_that_is_stopped_does_nothing_until_it_goes_on() -> None:
    assert ticks(None) == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert ticks(1.5, 2.0) == [1.0, 3.5, 4.5, 5.5]


def test_a_host_that_has_crashed_does_nothing_any_more() -> None:
    assert ticks(1.5, 2.0, crash=True) == [1.0]


def test_what_a_crashed_host_leaves_behind_does_nothing_and_warns_of_nothing() -> None:
    said: list[str] = []

    async def numbers() -> AsyncGenerator[int, None]:
        try:
            while True:
                yield 1
                await asyncio.sleep(1.0)
        finally:
            said.append("a generator was closed")

    async def work(loop: SimLoop) -> None:
        try:
            async for _ in numbers():
                pass
        finally:
            said.append("cleaned up")
            asyncio.create_task(asyncio.sleep(1.0))
            await asyncio.sleep(1.0)
            said.append("went on")

    async def main(loop: SimLoop) -> list[str]:
        host = loop.network.host("a")
        host.run(work(loop))
        await asyncio.sleep(0.5)
        loop.network.crash(host, silently=False)
        await asyncio.sleep(100.0)
        return list(said) + loop.uncaught

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(main, 0) == []
        gc.collect()
    assert "went on" not in said


@pytest.mark.parametrize("schedule", [lambda loop: loop.call_soon, lambda loop: loop.call_soon_threadsafe])
def test_one_host_keeps_its_order_and_hosts_are_mixed_by_the_seed(
    schedule: Callable[[SimLoop], Callable[..., object]],
) -> None:
    def order(seed: int) -> str:
        async def main(loop: SimLoop) -> str:
            seen: list[str] = []

            async def say(letters: str) -> None:
                for letter in letters:
                    schedule(loop)(seen.append, letter)

            for name, letters in (("a", "abcd"), ("b", "wxyz")):
                loop.network.host(name).run(say(letters))
            await asyncio.sleep(1.0)
            return "".join(seen)

        return run(main, seed)

    orders = {order(seed) for seed in range(20)}
    assert len(orders) > 3
    assert all([letter for letter in one if letter in "abcd"] == list("abcd") for one in orders)
    assert all([letter for letter in one if letter in "wxyz"] == list("wxyz") for one in orders)
    assert order(3) == order(3)


def test_work_for_a_thread_is_done_a_little_later() -> None:
    async def main(loop: SimLoop) -> int:
        return await asyncio.to_thread(lambda: 42)

    assert run(main, 0) == 42


def test_an_error_that_nobody_awaits_is_noted() -> None:
    async def main(loop: SimLoop) -> list[str]:
        async def fail() -> None:
            raise ValueError("unseen")

        task = asyncio.create_task(fail())
        await asyncio.sleep(1.0)
        del task
        return loop.uncaught

    [uncaught] = run(main, 0)
    assert "unseen" in uncaught

"""Workers that are asked to go: what they answer is finished, or goes on elsewhere."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from tests.system.cluster import cluster
from tests.system.exact import assert_exact


async def test_a_worker_that_is_asked_to_go_takes_nothing_new_and_finishes_what_it_has(
    tmp_path: Path, tiny_model: Path
) -> None:
    async with cluster(tmp_path, tiny_model) as made:
        asking = await made.begin(["farewell"], 200)
        going = await made.busiest()
        going.terminate()
        await made.routable(1)
        assert not going.ended, "it drains"
        later = await asyncio.gather(*(made.ask(f"later {n}", 10) for n in range(8)))
        for n, answer in enumerate(later):
            assert_exact(answer, f"later {n}", 10)
        [answer] = await made.finish(asking)
        assert_exact(answer, "farewell", 200)
        assert await going.exit_status() == 0


async def test_a_second_signal_ends_a_draining_worker_at_once_and_its_requests_go_on_elsewhere(
    tmp_path: Path, tiny_model: Path
) -> None:
    async with cluster(tmp_path, tiny_model) as made:
        asking = await made.begin(["hurry"], 300)
        going = await made.busiest()
        going.terminate()
        await made.routable(1)
        going.terminate()
        assert await going.exit_status() == 128 + signal.SIGTERM
        [answer] = await made.finish(asking)
        assert_exact(answer, "hurry", 300)


async def test_a_worker_killed_while_it_drains_is_one_that_was_lost(tmp_path: Path, tiny_model: Path) -> None:
    async with cluster(tmp_path, tiny_model) as made:
        asking = await made.begin(["cut short"], 300)
        going = await made.busiest()
        going.terminate()
        await made.routable(1)
        await going.kill()
        [answer] = await made.finish(asking)
        assert_exact(answer, "cut short", 300)

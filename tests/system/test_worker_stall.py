"""Workers that say nothing, though their kernels still answer: stopped, blocked, or stuck."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from tests.system.cluster import Cluster, Worker, cluster
from tests.system.exact import assert_exact
from tests.system.programs import DEADLINE_S, until
from tests.system.streams import MODEL

#: A stopped worker is noticed within 6 s, and its answers go on within 8.
GOES_ON_S = 8.0


async def test_the_answers_of_a_stopped_worker_go_on_elsewhere_and_it_may_wake_up(
    tmp_path: Path, tiny_model: Path
) -> None:
    prompts = [f"stopped {n}" for n in range(6)]
    async with cluster(tmp_path, tiny_model) as made:
        asking = await made.begin(prompts, 100)
        frozen = await made.busiest()
        await frozen.freeze()
        answers = await made.finish(asking)
        assert frozen.state() == "T", "it was stopped all the time"
        for prompt, answer in zip(prompts, answers, strict=True):
            assert_exact(answer, prompt, 100)
            assert answer.longest_pause_s < GOES_ON_S
        assert max(answer.longest_pause_s for answer in answers) > 1, "none of them was on the stopped worker"
        # While it is stopped nobody waits for it, although discovery still has it.
        assert len((await made.health()).instances[MODEL]) == 2
        for n in range(8):
            answer = await made.ask(f"meanwhile {n}", 5)
            assert_exact(answer, f"meanwhile {n}", 5)
        # The zombie wakes: its stale answers reach nobody, it has nothing left to do, and it serves again.
        await frozen.thaw()
        await made.idle()
        await _serves_again(made, frozen)


async def _serves_again(made: Cluster, worker: Worker) -> None:
    before = await worker.num_requests(made.client)
    async with asyncio.timeout(DEADLINE_S):
        number = 0
        while await worker.num_requests(made.client) == before:
            number += 1
            assert_exact(await made.ask(f"again {number}", 3), f"again {number}", 3)


async def test_a_blocked_event_loop_costs_its_own_worker_only(tmp_path: Path, tiny_model: Path) -> None:
    async with cluster(tmp_path, tiny_model, workers=1) as made:
        await made.start_worker("--fault", "block", "--fault-after-tokens", "30")
        await made.routable(2)
        prompts = [f"blocked {n}" for n in range(6)]
        answers = await asyncio.gather(*(made.ask(prompt, 100) for prompt in prompts))
        for prompt, answer in zip(prompts, answers, strict=True):
            assert_exact(answer, prompt, 100)
            assert answer.longest_pause_s < GOES_ON_S
        assert max(answer.longest_pause_s for answer in answers) > 1, "none of them was on the blocked worker"


async def test_an_engine_that_hangs_beside_a_healthy_loop_is_given_up_after_the_inter_item_time(
    tmp_path: Path, tiny_model: Path
) -> None:
    async with cluster(tmp_path, tiny_model, workers=1, DYN_INTER_ITEM_TIMEOUT_S="1") as made:
        await made.start_worker("--fault", "hang", "--fault-after-tokens", "30")
        await made.routable(2)
        prompts = [f"hung {n}" for n in range(6)]
        answers = await asyncio.gather(*(made.ask(prompt, 50) for prompt in prompts))
        for prompt, answer in zip(prompts, answers, strict=True):
            assert_exact(answer, prompt, 50)
        assert 1 <= max(answer.longest_pause_s for answer in answers) < GOES_ON_S


async def test_an_engine_that_hangs_before_the_first_token_is_given_up_after_the_first_item_time(
    tmp_path: Path, tiny_model: Path
) -> None:
    async with cluster(tmp_path, tiny_model, workers=1, DYN_FIRST_ITEM_TIMEOUT_S="1") as made:
        await made.start_worker("--fault", "hang")
        await made.routable(2)
        answers = await asyncio.gather(*(made.ask(f"never {n}", 20) for n in range(6)))
        for n, answer in enumerate(answers):
            assert_exact(answer, f"never {n}", 20)
        assert max(answer.took_s for answer in answers) >= 1


async def test_a_pause_of_the_whole_host_costs_nobody_an_answer(tmp_path: Path, tiny_model: Path) -> None:
    """As when a virtual machine is moved: every process stands still, and none of them is to blame."""
    async with cluster(tmp_path, tiny_model) as made:
        prompts = [f"host {n}" for n in range(6)]
        asking = await made.begin(prompts, 200)
        everybody = [made.frontend, *made.workers]
        for program in everybody:
            await program.freeze()
        # This process is a part of the host, too: it reads nothing meanwhile.
        time.sleep(7)  # noqa: ASYNC251
        assert [program.state() for program in everybody] == ["T"] * 3
        for program in everybody:
            await program.thaw()
        for prompt, answer in zip(prompts, await made.finish(asking), strict=True):
            assert_exact(answer, prompt, 200)
        await until(lambda: all(not program.ended for program in everybody))
        assert await made.migrations() == 0, "nobody was ejected"

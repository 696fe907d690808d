"""More requests than there is room for, and all of them at once."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.system.cluster import Cluster, cluster
from tests.system.exact import assert_exact
from tests.system.programs import DEADLINE_S

LIMITED = "tests.system.limited_worker"


async def test_beyond_what_workers_take_requests_are_refused_at_once_and_told_when_to_come_again(
    tmp_path: Path, tiny_model: Path
) -> None:
    async with Cluster(tmp_path, tiny_model) as made:
        await made.start_frontend()
        for _ in range(2):
            await made.start_worker(module=LIMITED)
        await made.routable(2)
        prompts = [f"too many {n}" for n in range(80)]
        made.slow()  # so that places are taken until somebody has been refused
        asking = [asyncio.create_task(made.ask(prompt, 60)) for prompt in prompts]
        await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
        answers = await made.finish(asking)
        accepted = [(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True) if answer.status == 200]
        refused = [answer for answer in answers if answer.status != 200]
        for prompt, answer in accepted:
            assert_exact(answer, prompt, 60)
        # 4 of each run and 4 wait; some come when others are done already.
        assert 16 <= len(accepted) < 80
        for answer in refused:
            assert answer.status == 503
            assert float(answer.headers["retry-after"]) > 0
            assert answer.error is not None
            assert answer.error.code == "overloaded"
        # A refusal does not wait for those who are served.
        assert min(answer.took_s for answer in refused) < min(answer.took_s for _, answer in accepted)
        assert_exact(await made.ask("afterwards", 20), "afterwards", 20)
        assert await made.migrations() == 0


async def test_who_leaves_while_waiting_for_a_place_never_reaches_the_engine(tmp_path: Path, tiny_model: Path) -> None:
    async with Cluster(tmp_path, tiny_model) as made:
        await made.start_frontend()
        worker = await made.start_worker("--max-concurrent-requests", "1", module=LIMITED)
        await made.routable(1)
        first = await made.begin(["served"], 100)
        impatient = asyncio.create_task(made.ask("impatient", 10))
        async with asyncio.timeout(DEADLINE_S):
            while await worker.num_requests(made.client) < 2:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.01)
        impatient.cancel()
        await asyncio.wait([impatient])
        [answer] = await made.finish(first)
        assert_exact(answer, "served", 100)
        assert_exact(await made.ask("next", 10), "next", 10)
        await made.idle()
        assert len([line for line in worker.lines if line.startswith("begun: ")]) == 2


async def test_a_herd_that_waited_for_a_worker_is_served_when_it_returns(tmp_path: Path, tiny_model: Path) -> None:
    async with cluster(tmp_path, tiny_model, workers=1) as made:
        await made.workers[0].kill()
        await made.remove(made.workers[0])
        await made.routable(0)
        worker = await made.start_worker()
        await made.routable(1)
        prompts = [f"herd {n}" for n in range(200)]
        for prompt, answer in zip(prompts, await asyncio.gather(*(made.ask(p, 5) for p in prompts)), strict=True):
            assert_exact(answer, prompt, 5)
        assert await worker.num_requests(made.client) == 200, "nothing was asked twice"

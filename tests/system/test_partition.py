"""A worker on another host, and a network between that really fails: in a network namespace, over TCP.

The worker's system server is reached over a second link, so that it can be asked what it does while nobody
can call it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.system.cluster import Cluster, Worker
from tests.system.exact import assert_exact
from tests.system.namespaces import Namespace
from tests.system.programs import DEADLINE_S

GOES_ON_S = 8.0
NUM_STREAMS = 6


@asynccontextmanager
async def two_hosts(
    directory: Path, model_path: Path, there: Namespace, *, others: int = 1
) -> AsyncIterator[tuple[Cluster, Worker]]:
    """A frontend, a worker in the namespace, and others beside the frontend."""
    async with Cluster(directory, model_path) as made:
        plane = f"tcp://{there.data_host}:0?insecure=1"
        far = await made.start_worker(before=there.prefix, system_host=there.control_host, DYN_REQUEST_PLANE=plane)
        await made.add_workers(others)
        await made.start_frontend()
        await made.routable(1 + others)
        yield made, far


async def test_answers_go_on_elsewhere_when_the_link_is_cut_and_the_worker_serves_again_when_it_heals(
    tmp_path: Path, tiny_model: Path, elsewhere: Namespace
) -> None:
    async with two_hosts(tmp_path, tiny_model, elsewhere) as (made, far):
        prompts = [f"parted {n}" for n in range(NUM_STREAMS)]
        asking = await made.begin(prompts, 100)
        assert await far.inflight(made.client) > 0
        await elsewhere.part()
        answers = await made.finish(asking)
        for prompt, answer in zip(prompts, answers, strict=True):
            assert_exact(answer, prompt, 100)
            assert answer.longest_pause_s < GOES_ON_S
        assert max(answer.longest_pause_s for answer in answers) > 1, "none of them was on the other host"
        # The worker notices by itself that nobody hears it.
        async with asyncio.timeout(GOES_ON_S):
            while await far.inflight(made.client):  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.05)
        await elsewhere.heal()
        await made.idle()
        before = await far.num_requests(made.client)
        async with asyncio.timeout(DEADLINE_S):
            number = 0
            while await far.num_requests(made.client) == before:
                number += 1
                assert_exact(await made.ask(f"healed {number}", 3), f"healed {number}", 3)


async def test_a_worker_whose_replies_are_dropped_is_lost_and_gives_up_by_itself(
    tmp_path: Path, tiny_model: Path, elsewhere: Namespace
) -> None:
    async with two_hosts(tmp_path, tiny_model, elsewhere) as (made, far):
        prompts = [f"mute {n}" for n in range(NUM_STREAMS)]
        asking = await made.begin(prompts, 100)
        assert await far.inflight(made.client) > 0
        await elsewhere.silence_replies()
        for prompt, answer in zip(prompts, await made.finish(asking), strict=True):
            assert_exact(answer, prompt, 100)
            assert answer.longest_pause_s < GOES_ON_S
        async with asyncio.timeout(GOES_ON_S):
            while await far.inflight(made.client):  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.05)


async def test_an_injected_reset_costs_no_token(tmp_path: Path, tiny_model: Path, elsewhere: Namespace) -> None:
    async with two_hosts(tmp_path, tiny_model, elsewhere) as (made, far):
        prompts = [f"injected {n}" for n in range(NUM_STREAMS)]
        asking = await made.begin(prompts, 150)
        assert await far.inflight(made.client) > 0
        assert await elsewhere.reset_connections() > 0
        for prompt, answer in zip(prompts, await made.finish(asking), strict=True):
            assert_exact(answer, prompt, 150)
            assert answer.longest_pause_s < 1


async def test_packets_that_are_lost_at_random_make_answers_slower_and_cost_no_token(
    tmp_path: Path, tiny_model: Path, elsewhere: Namespace
) -> None:
    async with two_hosts(tmp_path, tiny_model, elsewhere) as (made, far):
        await elsewhere.lose(percent=10)
        for block in range(3):
            prompts = [f"lossy {block} {n}" for n in range(NUM_STREAMS)]
            asking = await made.begin(prompts, 150)
            assert await far.inflight(made.client) > 0
            for prompt, answer in zip(prompts, await made.finish(asking), strict=True):
                assert_exact(answer, prompt, 150)
        assert min(await elsewhere.num_lost()) > 0


async def test_a_narrow_link_makes_answers_slower_and_nothing_else(
    tmp_path: Path, tiny_model: Path, elsewhere: Namespace
) -> None:
    async with two_hosts(tmp_path, tiny_model, elsewhere, others=0) as (made, far):
        await elsewhere.narrow(kbit_per_s=512)
        prompts = [f"narrow {n}" for n in range(NUM_STREAMS)]
        for prompt, answer in zip(prompts, await asyncio.gather(*(made.ask(p, 200) for p in prompts)), strict=True):
            assert_exact(answer, prompt, 200)
        assert await far.num_requests(made.client) == NUM_STREAMS, "nothing was asked twice"

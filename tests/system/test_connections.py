"""Connections between the frontend and a worker that fail while both of them live.

The worker is called through a proxy that fails in one way at a time; another worker is reached directly.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.system.cluster import Cluster, Worker
from tests.system.exact import assert_exact
from tests.system.fault_proxy import FaultProxy
from tests.system.programs import DEADLINE_S

GOES_ON_S = 8.0
NUM_STREAMS = 6


@asynccontextmanager
async def cluster_behind_proxy(
    directory: Path, model_path: Path, *, others: int
) -> AsyncIterator[tuple[Cluster, Worker, FaultProxy]]:
    """A frontend, a worker behind a proxy, and others that it reaches directly."""
    async with Cluster(directory, model_path) as made:
        worker, proxy = await made.start_worker_behind()
        await made.add_workers(others)
        await made.start_frontend()
        await made.routable(1 + others)
        yield made, worker, proxy


async def test_an_answer_goes_on_wherever_the_bytes_of_its_connection_are_cut(tmp_path: Path, tiny_model: Path) -> None:
    rng = random.Random(7)
    async with cluster_behind_proxy(tmp_path, tiny_model, others=1) as (made, _, proxy):
        assert_exact(await made.ask("measure", 60), "measure", 60)
        async with asyncio.timeout(DEADLINE_S):
            for number in range(4):
                proxy.to_caller.cut_after_bytes = proxy.to_caller.num_bytes + rng.randrange(1, 6000)
                asked = 0
                while proxy.to_caller.cut_after_bytes is not None:
                    asked += 1
                    prompts = [f"cut {number} {asked} {n}" for n in range(NUM_STREAMS)]
                    answers = await asyncio.gather(*(made.ask(prompt, 60) for prompt in prompts))
                    for prompt, answer in zip(prompts, answers, strict=True):
                        assert_exact(answer, prompt, 60)


async def test_a_reset_connection_costs_no_token_and_is_made_again(tmp_path: Path, tiny_model: Path) -> None:
    async with cluster_behind_proxy(tmp_path, tiny_model, others=1) as (made, worker, proxy):
        prompts = [f"reset {n}" for n in range(NUM_STREAMS)]
        asking = await made.begin(prompts, 200)
        assert await worker.inflight(made.client) > 0
        assert proxy.reset() == 1
        for prompt, answer in zip(prompts, await made.finish(asking), strict=True):
            assert_exact(answer, prompt, 200)
            assert answer.longest_pause_s < 1
        await made.idle()
        async with asyncio.timeout(DEADLINE_S):
            number = 0
            while proxy.num_connections == 1:
                number += 1
                assert_exact(await made.ask(f"after {number}", 3), f"after {number}", 3)


async def test_a_slow_and_narrow_network_makes_answers_slower_and_nothing_else(
    tmp_path: Path, tiny_model: Path
) -> None:
    async with cluster_behind_proxy(tmp_path, tiny_model, others=0) as (made, worker, proxy):
        for way in (proxy.to_caller, proxy.to_worker):
            way.delay_s, way.jitter_s, way.bytes_per_s = 0.2, 0.1, 64_000
        prompts = [f"far away {n}" for n in range(NUM_STREAMS)]
        for prompt, answer in zip(prompts, await asyncio.gather(*(made.ask(p, 400) for p in prompts)), strict=True):
            assert_exact(answer, prompt, 400)
            assert answer.times[0] - answer.started_at >= 0.4, "the network is slow"
        assert await worker.num_requests(made.client) == NUM_STREAMS, "nothing was asked twice"
        assert proxy.num_connections == 1


async def test_answers_go_on_elsewhere_when_replies_are_lost_and_late_replies_reach_nobody(
    tmp_path: Path, tiny_model: Path
) -> None:
    async with cluster_behind_proxy(tmp_path, tiny_model, others=1) as (made, worker, proxy):
        prompts = [f"one way {n}" for n in range(NUM_STREAMS)]
        asking = await made.begin(prompts, 100)
        assert await worker.inflight(made.client) > 0
        proxy.to_caller.hold()
        answers = await made.finish(asking)
        for prompt, answer in zip(prompts, answers, strict=True):
            assert_exact(answer, prompt, 100)
            assert answer.longest_pause_s < GOES_ON_S
        assert max(answer.longest_pause_s for answer in answers) > 1, "none of them was behind the proxy"
        proxy.to_caller.let_go()
        await made.idle()
        assert_exact(await made.ask("healed", 20), "healed", 20)


async def test_a_request_that_arrives_nowhere_is_answered_elsewhere(tmp_path: Path, tiny_model: Path) -> None:
    async with cluster_behind_proxy(tmp_path, tiny_model, others=1) as (made, worker, proxy):
        proxy.to_worker.hold()
        prompts = [f"lost request {n}" for n in range(NUM_STREAMS)]
        for prompt, answer in zip(prompts, await asyncio.gather(*(made.ask(p, 20) for p in prompts)), strict=True):
            assert_exact(answer, prompt, 20)
        assert proxy.num_connections > 0, "none of them was sent through the proxy"
        assert await worker.num_requests(made.client) == 0


async def test_hundreds_of_requests_share_one_connection_per_pair_of_processes(
    tmp_path: Path, tiny_model: Path
) -> None:
    async with cluster_behind_proxy(tmp_path, tiny_model, others=0) as (made, worker, proxy):
        fds = made.frontend.num_fds()
        for block in range(4):
            prompts = [f"many {block} {n}" for n in range(50)]
            answers = await asyncio.gather(*(made.ask(prompt, 2) for prompt in prompts))
            for prompt, answer in zip(prompts, answers, strict=True):
                assert_exact(answer, prompt, 2)
        assert await worker.num_requests(made.client) == 200
        assert proxy.num_connections == 1
        await made.idle()
        assert made.frontend.num_fds() <= fds + 60, "those of the clients' own connections, which are kept alive"

"""Workers of other releases beside our own, as in the middle of an upgrade.

What they say is written into the records of real workers; the bytes that other releases send over a connection
are in `tests/_core/test_versions.py`.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.free_port import free_port
from tests.system.cluster import Cluster, Worker
from tests.system.exact import assert_exact

from dynamo._core.wire import PROTOCOL_MAJOR

NUM_REQUESTS = 20


async def upgraded(made: Cluster, before: str, after: str) -> Worker:
    """Start a worker whose record has something in it that another release would write."""
    port = free_port()
    worker = await made.start_worker(DYN_REQUEST_PLANE=f"tcp://127.0.0.1:{port}?local=0")
    at = f"127.0.0.1:{port}/1?v={PROTOCOL_MAJOR}"
    await made.rewrite_record(at + before, at + after)
    return worker


async def served(made: Cluster) -> None:
    """Ask many times; every answer must be exact."""
    prompts = [f"skew {n}" for n in range(NUM_REQUESTS)]
    for prompt, answer in zip(prompts, await asyncio.gather(*(made.ask(p, 10) for p in prompts)), strict=True):
        assert_exact(answer, prompt, 10)


async def test_a_worker_of_another_major_version_gets_no_request_and_that_is_said(
    tmp_path: Path, tiny_model: Path
) -> None:
    async with Cluster(tmp_path, tiny_model) as made:
        other = await upgraded(made, "", "0")  # version 10
        ours = await made.start_worker()
        await made.start_frontend()
        await made.routable(2)
        await served(made)
        await made.frontend.line(rf"speaks protocol {PROTOCOL_MAJOR}0 and")
        assert await other.num_requests(made.client) == 0
        assert await ours.num_requests(made.client) == NUM_REQUESTS, "nothing was asked twice"
        assert await made.migrations() == 0


async def test_a_worker_whose_record_says_more_than_we_know_is_called(tmp_path: Path, tiny_model: Path) -> None:
    async with Cluster(tmp_path, tiny_model) as made:
        more = '&zone=b"},"type":"Endpoint","weights":[1,{"deep":null}]}'
        newer = await upgraded(made, '"},"type":"Endpoint"}', more)
        await made.start_frontend()
        await made.routable(1)
        await served(made)
        assert await newer.num_requests(made.client) == NUM_REQUESTS

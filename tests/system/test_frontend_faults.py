"""What becomes of requests when the frontend itself is lost, or asked to go."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from tests.system.cluster import cluster
from tests.system.exact import assert_exact
from tests.system.streams import Answer

#: How soon workers let go of the requests of a frontend that is lost.
ORPHANS_END_S = 3.5


async def test_workers_end_the_requests_of_a_frontend_that_was_killed(tmp_path: Path, tiny_model: Path) -> None:
    async with cluster(tmp_path, tiny_model, workers=1) as made:
        [asking] = await made.begin(["orphan"], 2000)
        (worker,) = made.workers
        assert await worker.inflight(made.client) == 1
        await made.frontend.kill()
        with pytest.raises(httpx.TransportError):
            await asking
        async with asyncio.timeout(ORPHANS_END_S):
            while await worker.inflight(made.client):  # noqa: ASYNC110 - the worker tells nobody
                await asyncio.sleep(0.01)
        made.hurry()
        await made.start_frontend()
        await made.routable(1)
        assert_exact(await made.ask("next", 10), "next", 10)


async def test_a_frontend_that_is_asked_to_go_finishes_what_runs_and_refuses_what_comes(
    tmp_path: Path, tiny_model: Path
) -> None:
    async with cluster(tmp_path, tiny_model, workers=1) as made:
        asking = await made.begin(["last"], 200)
        made.frontend.terminate()
        await made.frontend.line("shutting down")
        assert (await made.health()).status == "draining"
        assert (await made.client.get("/health")).status_code == 503
        assert (await made.client.get("/live")).status_code == 200
        refused: Answer = await made.ask("too late", 10)
        assert refused.status == 503
        assert "retry-after" in refused.headers
        [answer] = await made.finish(asking)
        assert_exact(answer, "last", 200)
        assert await made.frontend.exit_status() == 0

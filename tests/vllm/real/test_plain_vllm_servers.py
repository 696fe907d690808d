"""`dynamo route` in front of `vllm serve`, which knows nothing of it: by vLLM's own events on ZeroMQ."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from tests.system.programs import environment_of, running
from tests.system.streams import client_of
from tests.vllm.real.cases import MODEL_NAME, prompt
from tests.vllm.real.scene import World
from tests.vllm.real.settings import BLOCK_SIZE, DEADLINE_S, TEST_TIMEOUT_S

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(TEST_TIMEOUT_S)]


async def test_what_the_route_predicts_is_what_vllm_reports(world: World, tiny_model: Path, tmp_path: Path) -> None:
    words = []
    for server in await world.plain_servers():
        words += ["--backend", server.url, "--backend-kv-events", server.events]
    command = (
        "dynamo.cli", "route", *words, "--model-path", str(tiny_model), "--http-port", "0", "--check-interval-s", "0.5",
    )  # fmt: skip
    async with running(*command, environment=environment_of(f"file://{tmp_path}")) as route:
        url = (await route.line(r"^listening on (\S+)$"))[1]
        async with client_of(url) as client:
            await _until_well(client)
            prompts = [prompt(900 + seed, 200) for seed in range(6)]
            cached = (len(prompts[0]) - 1) // BLOCK_SIZE * BLOCK_SIZE
            # All at once, so that both servers have work.
            first = await asyncio.gather(*(_ask(client, token_ids) for token_ids in prompts))
            await _until_known(client, len(prompts) * cached // BLOCK_SIZE)
            again = [await _ask(client, token_ids) for token_ids in prompts]
    assert {worker for worker, *_ in first} == {1, 2}
    assert [one[1:] for one in first] == [(0, 0)] * len(prompts)
    assert again == [(worker, cached, cached) for worker, *_ in first]


async def _ask(client: httpx.AsyncClient, token_ids: list[int]) -> tuple[int, int, int]:
    """Return who answered, how many cached tokens the route predicted, and how many vLLM reports."""
    body = {"model": MODEL_NAME, "prompt": token_ids, "max_tokens": 1, "temperature": 0}
    answer = (await client.post("/v1/completions", json=body, headers={"x-dynamo-explain": "1"})).json()
    [decision] = answer["nvext"]["explain"]["decisions"]
    reported = (answer["usage"].get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return decision["worker_id"], decision["predicted_cached_tokens"], reported


async def _until_well(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while (await client.get("/health")).json()["status"] != "healthy":  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.2)


async def _until_known(client: httpx.AsyncClient, num_blocks: int) -> None:
    """Wait until the route knows of so many blocks, wherever they are."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            backends = (await client.get("/health")).json()["backends"]
            if sum(one["kv_blocks"] or 0 for one in backends) >= num_blocks:
                return
            await asyncio.sleep(0.05)

"""`dynamo route` in front of `vllm serve`, which knows nothing of it: by vLLM's own events on ZeroMQ."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
from tests.free_port import free_port
from tests.system.programs import Program, environment_of
from tests.vllm.real.cases import MODEL_NAME, prompt
from tests.vllm.real.scene import BLOCK_SIZE, CONTEXT_LENGTH, FRUGAL, MAX_NUM_SEQS, NUM_BLOCKS, START_S

EVENT_S = 10.0


async def vllm_serve(model: Path, directory: Path, events: str, replay: str) -> tuple[Program, str]:
    """Start a server that publishes its events; return before it is ready."""
    port = free_port()
    kv_events = {"enable_kv_cache_events": True, "publisher": "zmq", "endpoint": events, "replay_endpoint": replay}
    program = await Program.start(
        "vllm.entrypoints.cli.main", "serve", str(model), "--served-model-name", MODEL_NAME,
        "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--max-model-len", str(CONTEXT_LENGTH),
        "--max-num-seqs", str(MAX_NUM_SEQS), "--block-size", str(BLOCK_SIZE),
        "--num-gpu-blocks-override", str(NUM_BLOCKS), "--enforce-eager", "--enable-prefix-caching",
        "--enable-prompt-tokens-details", "--kv-events-config", json.dumps(kv_events),
        environment=environment_of(f"file://{directory}", **FRUGAL),
    )  # fmt: skip
    return program, f"http://127.0.0.1:{port}"


@pytest.mark.timeout(START_S + 60)
async def test_what_the_route_predicts_is_what_vllm_reports(tiny_model: Path, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        words = []
        for binds in (True, False):  # vLLM binds an address with a star, and connects to another one
            port, replay = free_port(), f"tcp://127.0.0.1:{free_port()}"
            events = f"tcp://*:{port}" if binds else f"tcp://127.0.0.1:{port}"
            program, url = await vllm_serve(tiny_model, tmp_path, events, replay)
            stack.push_async_callback(_stop, program)
            words += ["--backend", url, "--backend-kv-events", f"{events},{replay}" + ("" if binds else ",bind")]
        route = await Program.start(
            "dynamo.cli", "route", *words, "--model-path", str(tiny_model), "--http-port", "0",
            "--check-interval-s", "0.5", environment=environment_of(f"file://{tmp_path}"),
        )  # fmt: skip
        stack.push_async_callback(route.close)
        url = (await route.line(r"^listening on (\S+)$"))[1]
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=START_S))
        await _until_well(client)
        workers = set()
        for seed in range(4):
            token_ids = prompt(900 + seed, 200)
            cached = (len(token_ids) - 1) // BLOCK_SIZE * BLOCK_SIZE
            assert (await _ask(client, token_ids))[1:] == (0, 0)
            await _until_known(client, seed + 1, cached // BLOCK_SIZE)
            again = await _ask(client, token_ids)
            assert again[1:] == (cached, cached)
            workers.add(again[0])
        assert workers == {1, 2}


async def _stop(program: Program) -> None:
    """End it with the processes that it has started, which are not ours to kill."""
    program.terminate()
    await program.exit_status()


async def _ask(client: httpx.AsyncClient, token_ids: list[int]) -> tuple[int, int, int]:
    """Return who answered, how many cached tokens the route predicted, and how many vLLM reports."""
    body = {"model": MODEL_NAME, "prompt": token_ids, "max_tokens": 1, "temperature": 0}
    answer = (await client.post("/v1/completions", json=body, headers={"x-dynamo-explain": "1"})).json()
    [decision] = answer["nvext"]["explain"]["decisions"]
    reported = (answer["usage"].get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return decision["worker_id"], decision["predicted_cached_tokens"], reported


async def _until_well(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(START_S):
        while (await client.get("/health")).json()["status"] != "healthy":  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.2)


async def _until_known(client: httpx.AsyncClient, num_prompts: int, blocks_each: int) -> None:
    """Wait until the events of so many prompts have arrived."""
    async with asyncio.timeout(EVENT_S):
        while True:
            backends = (await client.get("/health")).json()["backends"]
            if sum(one["kv_blocks"] or 0 for one in backends) >= num_prompts * blocks_each:
                return
            await asyncio.sleep(0.05)

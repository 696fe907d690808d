"""What a frontend records can be replayed."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.frontend.mocked import mocked

from dynamo.mocker import MockerConfig
from dynamo.replay import Replay, ReplayConfig, read_policies, read_trace, trace_stats

SYSTEM = list(range(100, 292))


async def record(model: Path, path: Path, prompts: list[list[int]]) -> None:
    async with mocked(model, router_mode="kv", request_trace=str(path)) as scene:
        for prompt in prompts:
            assert (await scene.ask(prompt, max_tokens=5)).status_code == 200


async def test_a_trace_of_the_frontend_has_the_requests_that_came(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    await record(tiny_model, path, [[*SYSTEM, *range(first, first + 80)] for first in (300, 400, 500)])
    requests = read_trace([path])
    assert [(one.input_length, one.output_length, one.block_size) for one in requests] == [(272, 5, 64)] * 3
    assert requests[0].arrival_s == 0.0
    assert trace_stats(requests).reusable == 2 * 192 / (3 * 272)


async def test_a_trace_of_the_frontend_has_no_words_in_it(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    async with mocked(tiny_model, request_trace=str(path)) as scene:
        body = {"model": "mock", "messages": [{"role": "user", "content": "the secret word"}], "max_tokens": 5}
        answer = (await scene.http.post("/v1/chat/completions", json=body)).json()
    text = path.read_text()
    assert "secret" not in text
    assert answer["choices"][0]["message"]["content"] not in text
    assert '"is_complete":true' in text


async def test_a_recorded_trace_is_replayed(tiny_model: Path, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    await record(tiny_model, path, [[*SYSTEM, *range(first, first + 80)] for first in (300, 400, 500)])
    engine = MockerConfig(block_size=64, max_context_length=4096, num_gpu_blocks=256)
    config = ReplayConfig(num_workers=1, engine=engine, replay_concurrency=1)
    replay = Replay(read_trace([path]), read_policies(["kv"]), config)
    # A thread has room for another loop, which the replay makes.
    report = await asyncio.to_thread(replay.run)
    assert [one.hit_rate for one in report.policies] == [2 * 192 / (3 * 272)]

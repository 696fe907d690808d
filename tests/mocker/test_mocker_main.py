"""`python -m dynamo.mocker`, as its own process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from tests.mocker.scene import expected, request

from dynamo._core.address import MODEL_CARDS
from dynamo.llm import EngineOutput
from dynamo.llm._model_card import ModelCard
from dynamo.runtime import Client, DistributedRuntime

TIMEOUT_S = 90.0
#: The tiny model has 2048 tokens and 4096 positions.
VOCABULARY = range(1000, 2048)


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "dynamo.mocker", *options]


def run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*options), check=False, capture_output=True, text=True, timeout=TIMEOUT_S)


@contextmanager
def worker(tmp_path: Path, *options: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command("--discovery", f"file://{tmp_path}", *options),
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **variables},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@asynccontextmanager
async def calling(tmp_path: Path, count: int = 1) -> AsyncIterator[Client]:
    async with DistributedRuntime(discovery=f"file://{tmp_path}") as runtime:
        client = await runtime.endpoint("dynamo.backend.generate").client()
        await client.wait_for_instances(count, timeout_s=TIMEOUT_S)
        yield client


async def cards(tmp_path: Path) -> dict[str, ModelCard]:
    async with DistributedRuntime(discovery=f"file://{tmp_path}") as runtime:
        found = await runtime.discovery.get_prefix(MODEL_CARDS)
    return {key: ModelCard.from_json(card) for key, card in found.items()}


def scraped(url: str) -> list[str]:
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
        return str(response.read(), "utf-8").splitlines()


def until_served(process: subprocess.Popen[str], count: int) -> str:
    """Return what was logged until so many workers are registered."""
    assert process.stderr is not None
    lines: list[str] = []
    while sum("serving the model" in line for line in lines) < count:
        lines.append(process.stderr.readline())
        assert lines[-1], f"it ended: {lines}"
    return "".join(lines)


async def test_it_registers_each_worker_with_the_size_of_its_cache_and_answers(
    tmp_path: Path, tiny_model: Path
) -> None:
    options = ["--model-path", str(tiny_model), "--num-workers", "3", "--num-gpu-blocks", "128", "--speedup-ratio", "0"]
    with worker(tmp_path, *options) as process:
        until_served(process, 3)
        async with calling(tmp_path, 3) as client:
            asked = request([5, 6, 7], 4)
            for instance_id in client.instance_ids():
                stream = await client.direct(asked, instance_id, item_type=EngineOutput)
                said = [token_id async for output in stream for token_id in output.token_ids]
                assert said == expected(asked, VOCABULARY)
        found = await cards(tmp_path)
        assert len(found) == 3
        for card in found.values():
            assert card.kv_cache_block_size == 64
            assert card.context_length == 4096
            assert card.runtime_config == {
                "total_kv_blocks": 128,
                "max_num_seqs": 256,
                "max_num_batched_tokens": 8192,
                "data_parallel_size": 1,
                "kv_events": True,
            }
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT_S) == 0
    assert await cards(tmp_path) == {}


async def test_a_context_that_the_blocks_do_not_hold_is_cut_and_the_log_says_so(
    tmp_path: Path, tiny_model: Path
) -> None:
    with worker(tmp_path, "--model-path", str(tiny_model), "--num-gpu-blocks", "10") as process:
        assert "from 4096 to 640 tokens" in until_served(process, 1)
        assert [card.context_length for card in (await cards(tmp_path)).values()] == [640]


async def test_its_metrics_have_the_names_of_vllm_one_row_for_each_rank_of_each_worker(
    tmp_path: Path, tiny_model: Path
) -> None:
    options = ["--model-path", str(tiny_model), "--model-name", "m", "--num-workers", "2", "--dp-size", "2"]
    with worker(tmp_path, *options, "--speedup-ratio", "0", DYN_SYSTEM_PORT="0") as process:
        log = until_served(process, 2)
        url = log.partition("system server at ")[2].split()[0]
        async with calling(tmp_path, 2) as client:
            first = client.instance_ids()[0]
            asked = request(range(200), 4)
            asked.dp_rank = 1
            for _ in range(2):
                await (await client.direct(asked, first)).batch()
        lines = await asyncio.to_thread(scraped, f"{url}/metrics")
    row = f'{{engine="1",model_name="m",worker_id="{first:x}"}}'
    for name, value in (
        ("prefix_cache_queries_total", 400.0),
        ("prefix_cache_hits_total", 192.0),
        ("num_preemptions_total", 0.0),
        ("num_requests_waiting", 0.0),
    ):
        rows = dict(line.rsplit(" ", 1) for line in lines if line.startswith(f"vllm:{name}{{"))
        assert len(rows) == 4
        assert float(rows[f"vllm:{name}{row}"]) == value


def test_help_names_every_option_with_its_variable_and_its_default() -> None:
    done = run("--help")
    assert done.returncode == 0
    said = " ".join(done.stdout.split())
    for option in (
        "--block-size N tokens in a block of the KV cache [DYN_BLOCK_SIZE] (default: 64; 1 or more)",
        "--no-enable-prefix-caching",
        "[DYN_NUM_GPU_BLOCKS] (default: 16384; 1 or more)",
        "[DYN_SPEEDUP_RATIO] (default: 1.0; 0 or more)",
        "[DYN_NUM_WORKERS] (default: 1; from 1 to 1024)",
    ):
        assert option in said


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        ((), 2, "--model-path"),
        (("--model-path", "/no/such/model"), 1, "/no/such/model"),
        (("--model-path", "/no/such/model", "--num-workers", "3"), 1, "/no/such/model"),
        (("--model-path", "{model}", "--speedup-ratio", "-1"), 2, "--speedup-ratio is -1.0"),
        (("--model-path", "{model}", "--max-num-batched-tokens", "10"), 2, "max_num_seqs=256"),
        (("--model-path", "{model}", "--context-length", "2000", "--num-gpu-blocks", "5"), 2, "num_gpu_blocks=5"),
        (("--model-path", "{model}", "--context-length", "5000"), 1, "4096"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistake_is_said_in_one_line_without_a_traceback(
    tiny_model: Path, options: tuple[str, ...], status: int, said: str
) -> None:
    done = run(*(option.format(model=tiny_model) for option in options))
    assert (done.returncode, done.stderr.count("\n")) == (status, 1), done.stderr
    assert said in done.stderr

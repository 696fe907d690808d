"""`python -m dynamo.transformers`, as its own process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.llm.kv.scene import finds

from dynamo._core.address import MODEL_CARDS
from dynamo._core.blocks import block_hashes
from dynamo._core.prefix_index import WorkerKey
from dynamo.llm import EngineOutput, KvIndexer, PreprocessedRequest, SamplingOptions, StopConditions
from dynamo.llm._model_card import ModelCard
from dynamo.runtime import DistributedRuntime

TIMEOUT_S = 150.0


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "dynamo.transformers", *options]


def failing(*options: str, status: int = 1, **variables: str) -> str:
    """Run the command, which must fail as a user's mistake; return what it said."""
    environ = {**os.environ, **variables}
    done = subprocess.run(
        command(*options), check=False, capture_output=True, text=True, timeout=TIMEOUT_S, env=environ
    )
    assert done.returncode == status
    assert done.stderr.count("\n") == 1
    return done.stderr


@contextmanager
def worker(*options: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    environ = {**os.environ, **variables}
    process = subprocess.Popen(command(*options), stderr=subprocess.PIPE, text=True, env=environ)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


async def test_it_serves_a_model_until_ctrl_c(tiny_model: Path, tmp_path: Path) -> None:
    discovery = f"file://{tmp_path}"
    options = ("--model-path", str(tiny_model), "--discovery", discovery, "--dtype", "float32", "--device", "cpu")
    with worker(*options) as process:
        async with DistributedRuntime(discovery=discovery) as runtime:
            client = await runtime.endpoint("dynamo.backend.generate").client()
            await client.wait_for_instances(timeout_s=TIMEOUT_S)
            request = PreprocessedRequest(
                "tiny-model", [5, 6, 7], StopConditions(max_tokens=9, ignore_eos=True), SamplingOptions(seed=1)
            )
            stream = await client.generate(request, item_type=EngineOutput)
            outputs = [item async for item in stream]
        assert sum(len(output.token_ids) for output in outputs) == 9
        assert outputs[-1].finish_reason == "length"
        process.send_signal(signal.SIGINT)
        _, log = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 0
        assert "Traceback" not in log


async def test_its_card_its_metrics_and_its_events_tell_of_its_prefix_cache(tiny_model: Path, tmp_path: Path) -> None:
    discovery = f"file://{tmp_path}"
    options = ("--model-path", str(tiny_model), "--model-name", "m", "--discovery", discovery, "--device", "cpu")
    caching = ("--num-kv-blocks", "50", "--kv-cache-block-size", "8")
    with worker(*options, *caching, DYN_SYSTEM_PORT="0") as process:
        url = logged(process, "system server at ").split()[0]
        async with DistributedRuntime(discovery=discovery) as runtime:
            client = await runtime.endpoint("dynamo.backend.generate").client()
            await client.wait_for_instances(timeout_s=TIMEOUT_S)
            request = PreprocessedRequest("m", list(range(20, 60)), StopConditions(max_tokens=2, ignore_eos=True))
            for cached in (0, 32):
                stream = await client.generate(request, item_type=EngineOutput)
                usage = [item async for item in stream][-1].completion_usage
                assert usage is not None
                assert usage.prompt_tokens_details is not None
                assert usage.prompt_tokens_details.cached_tokens == cached
            async with KvIndexer(runtime.namespace("dynamo").component("backend"), 8) as indexer:
                worker_key = WorkerKey(client.instance_ids()[0])
                await finds(indexer, block_hashes(request.token_ids, 8), {worker_key: 5})
            logged(process, "serving the model")
            (found,) = (await runtime.discovery.get_prefix(MODEL_CARDS)).values()
            card = ModelCard.from_json(found)
            metrics = await asyncio.to_thread(scraped, f"{url}/metrics")
    assert card.kv_cache_block_size == 8
    assert card.runtime_config["total_kv_blocks"] == 50
    assert card.runtime_config["kv_events"] is True
    row = f'{{engine="0",model_name="m",worker_id="{worker_key.worker_id:x}"}}'
    assert f"vllm:prefix_cache_queries_total{row} 80.0" in metrics
    assert f"vllm:prefix_cache_hits_total{row} 32.0" in metrics


def scraped(url: str) -> list[str]:
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
        return str(response.read(), "utf-8").splitlines()


def logged(process: subprocess.Popen[str], words: str) -> str:
    """Wait until these words are logged; return what stands behind them."""
    assert process.stderr is not None
    while words not in (line := process.stderr.readline()):
        assert line, f"it ended before it said {words!r}"
    return line.partition(words)[2]


def test_blocks_that_do_not_fit_are_one_line(tiny_model: Path) -> None:
    said = failing("--model-path", str(tiny_model), "--num-kv-blocks", "1000000000")
    assert "num_kv_blocks=1000000000 of 16 tokens do not fit" in said


def test_a_name_that_is_no_directory_is_looked_for_on_the_hub() -> None:
    said = failing("--model-path", "owner/no-such-model", HF_HUB_OFFLINE="1")
    assert "owner/no-such-model" in said
    assert "could not be fetched from the hub" in said


def test_a_missing_directory_is_one_line() -> None:
    assert failing("--model-path", "/no/such/model") == "error: there is no model directory at '/no/such/model'\n"


def test_a_context_that_the_model_does_not_have_is_one_line(tiny_model: Path) -> None:
    assert "4096" in failing("--model-path", str(tiny_model), "--context-length", "5000")


def test_a_type_of_numbers_that_it_does_not_know_is_one_line() -> None:
    said = failing("--model-path", "/x", status=2, DYN_DTYPE="int8")
    assert said == "error: DYN_DTYPE='int8' must be one of auto, float32, bfloat16, float16\n"

"""`python -m dynamo.transformers`, as its own process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dynamo.llm import EngineOutput, PreprocessedRequest, SamplingOptions, StopConditions
from dynamo.runtime import DistributedRuntime

TIMEOUT_S = 50.0


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
def worker(*options: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command(*options), stderr=subprocess.PIPE, text=True)
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

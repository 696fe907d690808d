"""`python -m dynamo.echo`, as its own process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from dynamo._core.address import MODEL_CARDS
from dynamo.llm import EngineOutput, PreprocessedRequest
from dynamo.llm._model_card import ModelCard
from dynamo.runtime import Client, DistributedRuntime

TIMEOUT_S = 90.0
RSS_BYTES_MAX = 70 << 20


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "dynamo.echo", *options]


def run(*options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, **variables}
    return subprocess.run(
        command(*options), check=False, capture_output=True, text=True, timeout=TIMEOUT_S, env=environ
    )


@contextmanager
def worker(tmp_path: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command("--discovery", f"file://{tmp_path}", *options), stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@asynccontextmanager
async def calling(tmp_path: Path, path: str = "dynamo.backend.generate") -> AsyncIterator[Client]:
    async with DistributedRuntime(discovery=f"file://{tmp_path}") as runtime:
        client = await runtime.endpoint(path).client()
        await client.wait_for_instances(timeout_s=TIMEOUT_S)
        yield client


async def test_it_registers_the_model_and_says_prompts_back(tmp_path: Path, tiny_model: Path) -> None:
    options = ["--model-path", str(tiny_model), "--model-name", "parrot", "--namespace", "zoo"]
    with worker(tmp_path, *options) as process:
        async with calling(tmp_path, "zoo.backend.generate") as client:
            stream = await client.generate(PreprocessedRequest("parrot", [5, 6, 7]), item_type=EngineOutput)
            assert [output.token_ids async for output in stream] == [[5], [6], [7]]
        assert process.stderr is not None
        assert "serving the model 'parrot' at zoo/backend/generate" in process.stderr.readline()
        async with DistributedRuntime(discovery=f"file://{tmp_path}") as runtime:
            (card,) = (await runtime.discovery.get_prefix(MODEL_CARDS)).values()
        assert ModelCard.from_json(card).display_name == "parrot"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_lets_what_runs_finish_and_ends_with_status_0(
    tmp_path: Path, tiny_model: Path, number: signal.Signals
) -> None:
    with worker(tmp_path, "--model-path", str(tiny_model), "--token-delay-s", "0.05") as process:
        async with calling(tmp_path) as client:
            stream = await client.generate(PreprocessedRequest("tiny-model", [5] * 10), item_type=EngineOutput)
            await anext(stream)
            process.send_signal(number)
            rest = [output async for output in stream]
        assert len(rest) == 9
        assert rest[-1].finish_reason == "stop"
        assert process.wait(TIMEOUT_S) == 0


async def test_an_idle_worker_takes_little_memory(tmp_path: Path, tiny_model: Path) -> None:
    with worker(tmp_path, "--model-path", str(tiny_model)) as process:
        async with calling(tmp_path):
            assert rss_bytes(process.pid) < RSS_BYTES_MAX


def test_help_names_every_option_with_its_variable_and_its_default() -> None:
    done = run("--help")
    assert done.returncode == 0
    for said in ("--model-path", "[DYN_MODEL_PATH]", "(required)", "--max-num-seqs", "(default: 4096; 1 or more)"):
        assert said in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        ((), 2, "--model-path"),
        (("--model-path", "/no/such/model"), 1, "/no/such/model"),
        (("--model-path", "{model}", "--token-delay-s", "1", "--tokens-per-second", "1"), 2, "--tokens-per-second"),
        (("--model-path", "{model}", "--token-delay-s", "-1"), 2, "--token-delay-s is -1.0"),
        (("--model-path", "{model}", "--token-delay-s", "soon"), 2, "soon"),
        (("--model-path", "{model}", "--endpoint-types", "chats"), 1, "chats"),
        (("--model-path", "{model}", "--discovery", "tin:can"), 1, "tin"),
        (("--model-path", "{model}", "--event-plane", "tin:can"), 1, "tin"),
        (("--model-path", "{model}", "--namespace", "a b"), 1, "a b"),
        (("--model-path", "{model}", "--context-length", "5000"), 1, "4096"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistake_is_said_in_one_line_without_a_traceback(
    tiny_model: Path, options: tuple[str, ...], status: int, said: str
) -> None:
    done = run(*(option.format(model=tiny_model) for option in options))
    assert done.returncode == status
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


def test_a_variable_takes_the_place_of_a_flag_and_is_checked_like_one() -> None:
    assert "/from/variable" in run(DYN_MODEL_PATH="/from/variable").stderr
    assert "/from/flag" in run("--model-path", "/from/flag", DYN_MODEL_PATH="/from/variable").stderr
    wrong = run("--model-path", "/x", DYN_MAX_NUM_SEQS="many")
    assert (wrong.returncode, wrong.stderr) == (2, "error: DYN_MAX_NUM_SEQS='many' is not a whole number\n")


def test_a_wrong_log_level_is_a_wrong_setting() -> None:
    wrong = run("--model-path", "/x", DYN_LOG="loud")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: DYN_LOG='loud'")

"""The command line of the vLLM worker, and what it needs beside vLLM."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE
from contextlib import suppress
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge
from tests.system.programs import until

from dynamo.vllm.__main__ import VllmOptions
from dynamo.vllm._arguments import split_arguments
from dynamo.vllm._guard import kill_children
from dynamo.vllm._metrics import VllmMetrics

TIMEOUT_S = 150.0


@pytest.mark.parametrize(
    ("given", "ours", "engines"),
    [
        (["--model-path", "m", "--max-num-seqs", "4"], ["--model-path", "m"], ["--max-num-seqs", "4"]),
        (["--enforce-eager", "--model-path=m"], ["--model-path=m"], ["--enforce-eager"]),
        (["--seed", "1", "--namespace", "n", "--seed", "2"], ["--namespace", "n"], ["--seed", "1", "--seed", "2"]),
        (["--model-path", "m", "--", "--help"], ["--model-path", "m"], ["--help"]),
        (["--", "--model-path", "m"], [], ["--model-path", "m"]),
        (["--help"], ["--help"], []),
        (["--model-path"], ["--model-path"], []),
        ([], [], []),
    ],
    ids=" ".join,
)
def test_what_is_not_ours_is_for_vllm(given: list[str], ours: list[str], engines: list[str]) -> None:
    assert split_arguments(given, VllmOptions) == (ours, engines)


def run(*options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dynamo.vllm", *options],
        check=False,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env={**os.environ, **variables},
    )


def test_help_names_our_options_and_says_where_those_of_vllm_are() -> None:
    done = run("--help")
    assert done.returncode == 0
    said = " ".join(done.stdout.split())
    assert "[DYN_MODEL_PATH]" in said
    assert "python -m dynamo.vllm -- --help shows them" in said


def test_a_missing_model_path_is_one_line() -> None:
    done = run("--enforce-eager")
    assert (done.returncode, done.stderr) == (2, "error: --model-path is missing: give it, or set DYN_MODEL_PATH\n")


def test_without_vllm_one_line_says_how_to_install_it(tiny_model: Path, tmp_path: Path) -> None:
    # A module that cannot be imported stands for one that is not there, where there is one.
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "vllm.py").write_text("raise ModuleNotFoundError(\"No module named 'vllm'\", name='vllm')")
    path = os.pathsep.join([str(hidden), *filter(None, sys.path)])
    done = run("--model-path", str(tiny_model), "--discovery", f"file://{tmp_path / 'd'}", PYTHONPATH=path)
    expected = "error: the vLLM engine needs the package vllm: pip install vllm\n"
    assert (done.returncode, done.stderr) == (1, expected)


def test_of_the_metrics_of_a_process_those_of_vllm_are_told() -> None:
    registry = CollectorRegistry()
    Gauge("vllm:num_requests_running", "Requests that run", registry=registry).set(3)
    Gauge("python_something", "Something else", registry=registry)
    [metric] = VllmMetrics(registry).collect()
    assert (metric.name, metric.samples[0].value) == ("vllm:num_requests_running", 3)


GUARDED = """
import multiprocessing, os, signal, sys, time
from dynamo.vllm._guard import end_with_parent

class EndsNever:
    def __del__(self):
        time.sleep(600)

def engine(said, ends):
    end_with_parent(grace_s=0.2)
    if not ends:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        sys.modules["held to the end"] = EndsNever()
    said.send((os.getpid(), os.getpgrp()))
    time.sleep(600)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    heard, said = context.Pipe()
    context.Process(target=engine, args=(said, sys.argv[1] == "ends")).start()
    print(*heard.recv(), flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("engine", ["ends", "does not end, although its interpreter has begun to"])
async def test_a_process_of_the_engine_ends_with_a_worker_that_is_killed(tmp_path: Path, engine: str) -> None:
    script = tmp_path / "worker.py"
    script.write_text(GUARDED)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    worker = await asyncio.create_subprocess_exec(
        sys.executable, str(script), engine, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=environment
    )
    assert worker.stdout is not None
    pid, group = map(int, (await worker.stdout.readline()).split())
    try:
        assert group == pid, "what the terminal says to the worker is not said to the engine"
        worker.kill()
        await worker.wait()
        await until(lambda: not _runs(pid))
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_what_was_started_for_nobody_is_ended_and_nothing_else() -> None:
    spawn = multiprocessing.get_context("spawn")
    kept, started = (spawn.Process(target=time.sleep, args=(600,)) for _ in range(2))
    kept.start()
    try:
        before = multiprocessing.active_children()
        started.start()
        kill_children(but=before)
        started.join(TIMEOUT_S)
        assert started.exitcode == -signal.SIGKILL
        assert kept.is_alive()
    finally:
        kept.kill()
        kept.join(TIMEOUT_S)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False

"""A worker process around an engine: how it ends when the engine does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dynamo._core.address import INSTANCES, MODEL_CARDS
from dynamo.llm._model_card import ModelCard
from dynamo.runtime import DistributedRuntime

TIMEOUT_S = 90

DYING_WORKER = """
import asyncio, sys
from dynamo._core.errors import EngineShutdown
from dynamo.echo import EchoEngine
from dynamo.llm._worker import run_engine_worker
from dynamo.llm._worker_options import WorkerOptions

class Dying(EchoEngine):
    async def ended(self):
        return EngineShutdown("the engine failed: out of memory")

async def start(path):
    return Dying(max_context_length=100)

options = WorkerOptions(model_path=sys.argv[1], discovery=sys.argv[2], context_length=100)
sys.exit(run_engine_worker(options, start))
"""

TELLING_WORKER = """
import sys
from dynamo._core.address import MODEL_CARDS
from dynamo._core.errors import EngineShutdown
from dynamo.echo import EchoEngine
from dynamo.llm._worker import run_engine_worker
from dynamo.llm._worker_options import WorkerOptions
from dynamo.runtime import DistributedRuntime

class Telling(EchoEngine):
    async def ended(self):
        async with DistributedRuntime(discovery=sys.argv[2]) as runtime:
            (card,) = (await runtime.discovery.get_prefix(MODEL_CARDS)).values()
            print(card.decode())
        return EngineShutdown("told")

async def start(path):
    return Telling(max_context_length=100)

options = WorkerOptions(model_path=sys.argv[1], discovery=sys.argv[2], context_length=100, migration_limit=7)
sys.exit(run_engine_worker(options, start))
"""


async def test_a_worker_whose_engine_fails_unregisters_and_ends_with_status_1(tiny_model: Path, tmp_path: Path) -> None:
    discovery = f"file://{tmp_path}"
    done = run(DYING_WORKER, str(tiny_model), discovery)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: the engine failed: out of memory"
    async with DistributedRuntime(discovery=discovery) as runtime:
        assert not await runtime.discovery.get_prefix(MODEL_CARDS)
        assert not await runtime.discovery.get_prefix(INSTANCES)


def test_a_worker_says_in_its_card_how_often_its_requests_may_move(tiny_model: Path, tmp_path: Path) -> None:
    done = run(TELLING_WORKER, str(tiny_model), f"file://{tmp_path}")
    assert ModelCard.from_json(done.stdout.encode()).migration_limit == 7, done.stderr


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=TIMEOUT_S)


STUBBORN_WORKER = """
import sys
from dynamo.echo import EchoEngine
from dynamo.llm._worker import run_engine_worker
from dynamo.llm._worker_options import WorkerOptions

class Serving(EchoEngine):
    async def ended(self):
        print("serving", flush=True)
        return await super().ended()

async def start(path):
    return Serving(max_context_length=int(sys.argv[3]))

options = WorkerOptions(model_path=sys.argv[1], discovery=sys.argv[2], on_conflict=sys.argv[4])
sys.exit(run_engine_worker(options, start))
"""


def test_a_worker_that_differs_ends_with_one_line_and_one_that_waits_goes_on(tiny_model: Path, tmp_path: Path) -> None:
    discovery = f"file://{tmp_path}"
    with working(tiny_model, discovery, "100", "refuse") as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "serving\n"
        refused = run(STUBBORN_WORKER, str(tiny_model), discovery, "200", "refuse")
        assert refused.returncode == 1
        (line,) = [one for one in refused.stderr.splitlines() if one.startswith("error: ")]
        assert "differs from others at dynamo/backend/generate: its context length is 200, and that of worker" in line
        assert refused.stderr.splitlines()[-1] == line
        with working(tiny_model, discovery, "200", "wait") as waiting:
            assert waiting.stdout is not None
            assert waiting.stdout.readline() == "serving\n"


@contextmanager
def working(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """A worker that serves until the block ends."""
    command = [sys.executable, "-c", STUBBORN_WORKER, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.wait(TIMEOUT_S)

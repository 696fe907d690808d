"""A worker process around an engine: how it ends when the engine does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from dynamo._core.address import INSTANCES, MODEL_CARDS
from dynamo.llm._model_card import ModelCard
from dynamo.runtime import DistributedRuntime

TIMEOUT_S = 30

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

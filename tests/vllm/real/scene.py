"""Two vLLM workers behind a frontend that routes by their KV events, and vLLM alone beside them.

All on one CPU core or two, so everything that takes time is started at once and shared by all tests.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
from tests.system.cluster import metric
from tests.system.programs import Program, environment_of, until
from tests.system.streams import client_of
from tests.vllm.real.cases import MODEL_NAME

from dynamo._core.context import Context
from dynamo.llm import EngineOutput, PreprocessedRequest
from dynamo.runtime import Client, DistributedRuntime

#: vLLM is imported in three processes for each engine, and compiles what it needs at its first request.
START_S = 240.0
#: The first test waits for all that.
TEST_TIMEOUT_S = START_S + 60.0
DEADLINE_S = 60.0
CONTEXT_LENGTH = 2048
BLOCK_SIZE = 32
NUM_BLOCKS = 128
MAX_NUM_SEQS = 4
ENGINE_OPTIONS = (
    "--dtype", "float32", "--block-size", str(BLOCK_SIZE), "--num-gpu-blocks-override", str(NUM_BLOCKS),
    "--max-num-seqs", str(MAX_NUM_SEQS), "--enforce-eager",
)  # fmt: skip
OPTIONS = ("--context-length", str(CONTEXT_LENGTH), *ENGINE_OPTIONS)
#: As little of the machine as it can do with, nothing from the network, and nothing told to anybody.
FRUGAL = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

Json = dict[str, Any]


@dataclass
class VllmWorker:
    """A worker process, and its place in the cluster."""

    program: Program
    url: str
    instance_id: int

    async def metric(self, client: httpx.AsyncClient, name: str) -> float:
        """What `/metrics` of the worker says."""
        return await metric(client, self.url, name)

    def engine_pids(self) -> list[int]:
        """The processes of its engine that live."""
        children = [
            int(pid) for pid in os.listdir("/proc") if pid.isdecimal() and _parent(int(pid)) == self.program.pid
        ]
        return [pid for pid in children if b"VLLM" in _command(pid)]


@dataclass
class Scene:
    """What a test has: the workers, a client of the frontend, and one of the workers' endpoint."""

    workers: list[VllmWorker]
    http: httpx.AsyncClient
    client: Client
    runtime: DistributedRuntime

    async def generate(self, request: PreprocessedRequest, worker: VllmWorker | None = None) -> list[EngineOutput]:
        """Have a worker answer, by itself."""
        instance_id = (worker or self.workers[0]).instance_id
        stream = await self.client.direct(request, instance_id, item_type=EngineOutput)
        async with asyncio.timeout(DEADLINE_S):
            return [output async for output in stream]

    @asynccontextmanager
    async def stream(
        self, request: PreprocessedRequest, context: Context
    ) -> AsyncIterator[AsyncIterator[EngineOutput]]:
        """Read what the first worker says as it comes."""
        stream = await self.client.direct(request, self.workers[0].instance_id, item_type=EngineOutput, context=context)
        try:
            async with asyncio.timeout(DEADLINE_S):
                yield stream
        finally:
            await stream.aclose()

    async def complete(self, token_ids: list[int], max_tokens: int, **fields: object) -> Json:
        """Ask the frontend, and have the routing explained."""
        body = {"model": MODEL_NAME, "prompt": token_ids, "max_tokens": max_tokens, "temperature": 0, **fields}
        answer = await self.http.post("/v1/completions", json=body, headers={"x-dynamo-explain": "1"})
        assert answer.status_code == 200, answer.text
        found: Json = answer.json()
        return found

    async def num_routable(self) -> int:
        """How many workers the frontend knows."""
        health: Json = (await self.http.get("/health")).json()
        return len(health["instances"].get(MODEL_NAME, []))


class World:
    """Everything that is started once: use it with `async with`."""

    def __init__(self, directory: Path, model: Path) -> None:
        self._model = model
        self._discovery = f"file://{directory / 'discovery'}"
        self._workers: list[VllmWorker] = []
        self._scene: Scene | None = None
        self._alone: Program | None = None
        self._all = AsyncExitStack()

    async def __aenter__(self) -> World:
        """Begin to start what takes long."""
        self._alone = await self._start("tests.vllm.real.alone", str(self._model))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._all.aclose()

    async def answers_of_vllm_alone(self) -> Json:
        """What vLLM says to each case without anything of ours."""
        assert self._alone is not None
        found: Json = json.loads((await _said(self._alone, r"answers: (.*)"))[1])
        return found

    async def scene(self, num_workers: int = 2) -> Scene:
        """Return so many living workers, or more, and the rest; what is not there is started."""
        for worker in [worker for worker in self._workers if worker.program.ended]:
            self._workers.remove(worker)
        async with asyncio.TaskGroup() as starting:
            for _ in range(num_workers - len(self._workers)):
                starting.create_task(self._add_worker())
            if self._scene is None:
                starting.create_task(self._start_rest())
        assert self._scene is not None
        await self._until_all_know(self._scene)
        return self._scene

    @asynccontextmanager
    async def service(self) -> AsyncIterator[Client]:
        """Serve the same model with a service of a graph; a client of that."""
        section = {"model_path": str(self._model), "context_length": CONTEXT_LENGTH, "engine_arguments": ENGINE_OPTIONS}
        config = json.dumps({"Llama": section})
        command = ("dynamo.cli", "serve", "tests.vllm.real.service:Llama")
        program = await self._start(*command, DYNAMO_SERVICE_CONFIG=config)
        await _said(program, r"^ready in ")
        async with DistributedRuntime(discovery=self._discovery) as runtime:
            client = await runtime.endpoint("zoo.Llama.generate").client()
            await client.wait_for_instances(timeout_s=DEADLINE_S)
            yield client
            await client.close()
        program.terminate()
        assert await program.exit_status() == 0

    async def _until_all_know(self, scene: Scene) -> None:
        """Wait until the frontend and the client know those workers, and no others."""
        ids = sorted(worker.instance_id for worker in self._workers)
        async with asyncio.timeout(DEADLINE_S):
            while scene.client.instance_ids() != ids or await scene.num_routable() != len(ids):  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def _start_rest(self) -> None:
        frontend = await self._start("dynamo.frontend", "--http-port", "0", "--router-mode", "kv")
        http = client_of((await _said(frontend, r"listening on (http://\S+)"))[1])
        self._all.push_async_callback(http.aclose)
        runtime = await self._all.enter_async_context(DistributedRuntime(discovery=self._discovery))
        client = await runtime.endpoint("dynamo.backend.generate").client()
        self._all.push_async_callback(client.close)
        self._scene = Scene(self._workers, http, client, runtime)

    async def _add_worker(self) -> None:
        about = ("--model-path", str(self._model), "--model-name", MODEL_NAME)
        program = await self._start("dynamo.vllm", *about, *OPTIONS, DYN_SYSTEM_PORT="0")
        url = (await _said(program, r"system server at (http://\S+)"))[1]
        instance_id = int((await _said(program, r"serving the model .* instance ([0-9a-f]+)"))[1], 16)
        self._workers.append(VllmWorker(program, url, instance_id))

    async def _start(self, *command: str, **variables: str) -> Program:
        program = await Program.start(*command, environment=environment_of(self._discovery, **FRUGAL, **variables))
        self._all.push_async_callback(program.close)
        return program


def tokens_of(outputs: list[EngineOutput]) -> list[int]:
    """All that an answer says."""
    return [token_id for output in outputs for token_id in output.token_ids]


async def _said(program: Program, pattern: str) -> re.Match[str]:
    """Wait for a line of a program that may take long."""

    def found() -> re.Match[str] | None:
        return next((match for line in program.lines if (match := re.search(pattern, line))), None)

    await until(lambda: found() is not None or program.ended, within_s=START_S)
    match = found()
    assert match is not None, f"it ended without a line like {pattern!r}:\n{program.text}"
    return match


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""

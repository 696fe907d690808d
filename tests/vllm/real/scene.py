"""Two vLLM workers behind a frontend that routes by their KV events, and what is to be compared with them.

All on one CPU core or two, so everything that takes time is started at once and shared by all tests. The workers and
the frontend are started by the commands of `examples/vllm_kv`, with more options.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
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
from tests.vllm.real.cases import MODEL_NAME, Case
from tests.vllm.real.plain import PlainServer
from tests.vllm.real.settings import CONTEXT_LENGTH, DEADLINE_S, ENGINE_OPTIONS, FRUGAL, START_S

from dynamo._core.context import Context
from dynamo.llm import EngineOutput, PreprocessedRequest
from dynamo.runtime import Client, DistributedRuntime

EXAMPLE = Path(__file__).parents[3] / "examples" / "vllm_kv" / "README.md"

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
        #: Where a worker, and vLLM within it, may leave temporary files.
        self.worker_files = directory / "tmp"
        self._discovery = f"file://{directory / 'discovery'}"
        # Of its own, since it serves the same model.
        self._discovery_of_service = f"file://{directory / 'discovery-of-service'}"
        self._starting: list[Program] = []
        self._workers: list[VllmWorker] = []
        self._scene: Scene | None = None
        self._plain: list[PlainServer] = []
        self._service: Program | None = None
        self._all = AsyncExitStack()

    async def __aenter__(self) -> World:
        """Begin to start what takes long."""
        self.worker_files.mkdir()
        for binds in (True, False):
            self._plain.append(await PlainServer.start(self._model, self._discovery, binds=binds))
            self._all.push_async_callback(self._plain[-1].close)
        section = {"model_path": str(self._model), "context_length": CONTEXT_LENGTH, "engine_arguments": ENGINE_OPTIONS}
        self._service = await self._start(
            "dynamo.cli", "serve", "tests.vllm.real.service:Llama",
            DYN_DISCOVERY=self._discovery_of_service, DYNAMO_SERVICE_CONFIG=json.dumps({"Llama": section}),
        )  # fmt: skip
        self._starting = [await self._start_worker(), await self._start_worker()]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._all.aclose()

    async def plain_servers(self) -> list[PlainServer]:
        """Two `vllm serve` that are ready: one binds the address of its events, the other connects to it."""
        for server in self._plain:
            await server.ready()
        return self._plain

    async def answer_of_vllm_alone(self, case: Case) -> Json:
        """What vLLM says to it without anything of ours."""
        return await (await self.plain_servers())[0].answer(case)

    async def scene(self, num_workers: int = 2) -> Scene:
        """Return so many living workers, or more, and the rest; what has ended is started anew."""
        for worker in [worker for worker in self._workers if worker.program.ended]:
            self._workers.remove(worker)
        async with asyncio.TaskGroup() as starting:
            for _ in range(max(len(self._starting), num_workers - len(self._workers))):
                starting.create_task(self._add_worker())
            if self._scene is None:
                starting.create_task(self._start_rest())
        assert self._scene is not None
        await self._until_all_know(self._scene)
        return self._scene

    @asynccontextmanager
    async def service(self) -> AsyncIterator[Client]:
        """A client of a service of a graph that serves the same model; the graph ends with the block."""
        assert self._service is not None
        await _said(self._service, r"^ready in ")
        async with DistributedRuntime(discovery=self._discovery_of_service) as runtime:
            client = await runtime.endpoint("zoo.Llama.generate").client()
            await client.wait_for_instances(timeout_s=DEADLINE_S)
            yield client
            await client.close()
        self._service.terminate()
        assert await self._service.exit_status() == 0

    async def _until_all_know(self, scene: Scene) -> None:
        """Wait until the frontend and the client know those workers, and no others."""
        ids = sorted(worker.instance_id for worker in self._workers)
        async with asyncio.timeout(DEADLINE_S):
            while scene.client.instance_ids() != ids or await scene.num_routable() != len(ids):  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def _start_rest(self) -> None:
        [(variables, options)] = example_commands("dynamo.frontend")
        frontend = await self._start("dynamo.frontend", *options, "--http-port", "0", **variables)
        http = client_of((await _said(frontend, r"listening on (http://\S+)"))[1])
        self._all.push_async_callback(http.aclose)
        runtime = await self._all.enter_async_context(DistributedRuntime(discovery=self._discovery))
        client = await runtime.endpoint("dynamo.backend.generate").client()
        self._all.push_async_callback(client.close)
        self._scene = Scene(self._workers, http, client, runtime)

    async def _start_worker(self) -> Program:
        variables, options = example_commands("dynamo.vllm")[0]
        more = ("--model-path", str(self._model), "--model-name", MODEL_NAME, "--context-length", str(CONTEXT_LENGTH))
        return await self._start(
            "dynamo.vllm",
            *options,
            *more,
            *ENGINE_OPTIONS,
            DYN_SYSTEM_PORT="0",
            TMPDIR=str(self.worker_files),
            **variables,
        )

    async def _add_worker(self) -> None:
        program = self._starting.pop() if self._starting else await self._start_worker()
        url = (await _said(program, r"system server at (http://\S+)"))[1]
        instance_id = int((await _said(program, r"serving the model .* instance ([0-9a-f]+)"))[1], 16)
        self._workers.append(VllmWorker(program, url, instance_id))

    async def _start(self, *command: str, **variables: str) -> Program:
        program = await Program.start(
            *command, environment=environment_of(**{"discovery": self._discovery, **FRUGAL, **variables})
        )
        self._all.push_async_callback(program.close)
        return program


def example_commands(module: str) -> list[tuple[dict[str, str], list[str]]]:
    """The variables and the options of each command of the example that runs this module."""
    found = re.findall(rf"^((?:\w+=\S+ )*)python -m {re.escape(module)} (.*)$", EXAMPLE.read_text(), re.MULTILINE)
    return [(dict(word.split("=", 1) for word in before.split()), shlex.split(after)) for before, after in found]


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

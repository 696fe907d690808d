"""A cluster on this host: a frontend, workers whose answers are known beforehand, and a client.

Each cluster has a discovery directory of its own, so clusters of several tests do not meet.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType

import httpx
import msgspec
from tests.free_port import free_port
from tests.system.fault_proxy import FaultProxy, fault_proxy
from tests.system.programs import DEADLINE_S, POLL_S, Program, environment_of
from tests.system.streams import MODEL, Answer, OnChunk, ask, client_of

from dynamo._core.address import INSTANCES
from dynamo.runtime import DistributedRuntime

#: How fast a worker answers: 200 tokens are a second.
TOKEN_DELAY_S = "0.005"

_SYSTEM_URL = r"system server at (http://\S+)"


class Worker(Program):
    """A worker process, and what its system server says of it."""

    url = ""

    async def inflight(self, client: httpx.AsyncClient) -> int:
        """The requests that its endpoints are answering."""
        return round(await metric(client, self.url, "dynamo_component_inflight_requests"))

    async def num_requests(self, client: httpx.AsyncClient) -> int:
        """The requests that ever came to its endpoints."""
        return round(await metric(client, self.url, "dynamo_component_requests_total"))


async def metric(client: httpx.AsyncClient, url: str, name: str, **labels: str) -> float:
    """The sum of the samples of a metric at `url` that have these labels."""
    text = (await client.get(f"{url}/metrics")).raise_for_status().text
    total = 0.0
    for found in re.finditer(rf"^{name}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE):
        if all(f'{label}="{value}"' in (found[1] or "") for label, value in labels.items()):
            total += float(found[2])
    return total


class Health(msgspec.Struct):
    """What the frontend says of itself."""

    status: str
    active_requests: int = 0
    instances: dict[str, list[str]] = {}


class Cluster:
    """A frontend and its workers: use it with `async with`."""

    def __init__(self, directory: Path, model_path: Path) -> None:
        self.discovery = f"file://{directory}"
        self._slow = directory.with_name(f"{directory.name}.slow")
        self.model_path = model_path
        self.workers: list[Worker] = []
        self._frontend: Program | None = None
        self._client: httpx.AsyncClient | None = None
        self._all = AsyncExitStack()

    async def __aenter__(self) -> Cluster:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._all.aclose()

    @property
    def frontend(self) -> Program:
        assert self._frontend is not None
        return self._frontend

    @property
    def client(self) -> httpx.AsyncClient:
        assert self._client is not None
        return self._client

    async def start_frontend(self, *options: str, **variables: str) -> Program:
        """Start a frontend and make `client` a client of it; return when it listens."""
        environment = environment_of(self.discovery, **variables)
        self._frontend = await Program.start("dynamo.frontend", "--http-port", "0", *options, environment=environment)
        self._all.push_async_callback(self._frontend.close)
        url = (await self._frontend.line(r"listening on (http://\S+)"))[1]
        self._client = client_of(url)
        self._all.push_async_callback(self._client.aclose)
        return self._frontend

    async def start_worker(
        self,
        *options: str,
        module: str = "tests.oracle",
        before: Sequence[str] = (),
        system_host: str = "127.0.0.1",
        **variables: str,
    ) -> Worker:
        """Start a worker; return when it serves, though the frontend may not have heard of it yet."""
        system = {"DYN_SYSTEM_PORT": "0", "DYN_SYSTEM_HOST": system_host, "DYN_INSECURE": "1"}
        environment = environment_of(self.discovery, **(system | variables))
        model = ("--model-path", str(self.model_path), "--model-name", MODEL)
        pace = ("--token-delay-s", TOKEN_DELAY_S, "--slow-while", str(self._slow))
        worker = await Worker.start(module, *model, *pace, *options, environment=environment, before=before)
        self._all.push_async_callback(worker.close)
        worker.url = (await worker.line(_SYSTEM_URL))[1]
        await worker.line("serving the model")
        self.workers.append(worker)
        return worker

    async def start_worker_behind(self, *options: str, seed: int = 0, **variables: str) -> tuple[Worker, FaultProxy]:
        """Start a worker that is called through a proxy. To be done before the frontend, which would go around it."""
        assert self._frontend is None
        port = free_port()
        proxy = await self._all.enter_async_context(fault_proxy(port, seed=seed))
        plane = f"tcp://127.0.0.1:{port}?local=0"
        worker = await self.start_worker(*options, DYN_REQUEST_PLANE=plane, **variables)
        await self.rewrite_record(f"127.0.0.1:{port}/", f"127.0.0.1:{proxy.port}/")
        return worker, proxy

    async def rewrite_record(self, before: str, after: str) -> None:
        """Change what discovery says of the one instance whose record has `before`, as if its worker had said so."""
        runtime = await self._all.enter_async_context(DistributedRuntime(discovery=self.discovery))
        records = await runtime.discovery.get_prefix(INSTANCES)
        [(key, record)] = [(key, value) for key, value in records.items() if before.encode() in value]
        await runtime.discovery.put(key, record.replace(before.encode(), after.encode()), runtime.lease)

    async def add_workers(self, count: int, *options: str, **variables: str) -> list[Worker]:
        """Start workers side by side."""
        async with asyncio.TaskGroup() as all:
            starts = [all.create_task(self.start_worker(*options, **variables)) for _ in range(count)]
        return [start.result() for start in starts]

    async def remove(self, worker: Worker) -> None:
        """End a worker, and forget it."""
        self.workers.remove(worker)
        await worker.close()

    async def health(self) -> Health:
        return msgspec.json.decode((await self.client.get("/health")).content, type=Health)

    async def routable(self, count: int, *, within_s: float = DEADLINE_S) -> None:
        """Wait until the frontend knows exactly so many instances."""
        async with asyncio.timeout(within_s):
            while len((await self.health()).instances.get(MODEL, [])) != count:  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)

    async def begin(self, prompts: Sequence[str], max_tokens: int) -> list[asyncio.Task[Answer]]:
        """Ask all of them; return once each is being answered: slowly, so that none ends until `finish`."""
        self.slow()
        begun = [asyncio.Event() for _ in prompts]
        tasks = [
            asyncio.create_task(self.ask(prompt, max_tokens, on_chunk=lambda _, n=n: begun[n].set()))  # type: ignore[misc]
            for n, prompt in enumerate(prompts)
        ]
        await asyncio.gather(*(event.wait() for event in begun))
        return tasks

    async def finish(self, asking: Sequence[asyncio.Task[Answer]]) -> list[Answer]:
        """Let what has begun go on as fast as it can; return the answers."""
        self.hurry()
        return await asyncio.gather(*asking)

    def slow(self) -> None:
        """From now on the workers answer slowly."""
        self._slow.touch()

    def hurry(self) -> None:
        self._slow.unlink()

    async def ask(
        self,
        prompt: str,
        max_tokens: int,
        *,
        on_chunk: OnChunk | None = None,
        within_s: float = DEADLINE_S,
        **options: object,
    ) -> Answer:
        """Stream a chat completion to its end, whatever the end is."""
        return await ask(self.client, prompt, max_tokens, on_chunk=on_chunk, within_s=within_s, **options)

    async def migrations(self) -> int:
        """How often a request went on at another worker, as the frontend counts it."""
        return round(await metric(self.client, "", "dynamo_frontend_model_migration_total"))

    async def busiest(self) -> Worker:
        """The worker that answers the most requests now; at least one."""
        busy = {await worker.inflight(self.client): worker for worker in self.workers if not worker.ended}
        most = max(busy)
        assert most > 0, "no worker answers anything"
        return busy[most]

    async def idle(self, *, within_s: float = DEADLINE_S) -> None:
        """Wait until no request is left anywhere."""
        async with asyncio.timeout(within_s):
            while (await self.health()).active_requests or await self.num_inflight():  # noqa: ASYNC110
                await asyncio.sleep(POLL_S)

    async def num_inflight(self) -> int:
        """The requests that the living workers answer."""
        return sum([await worker.inflight(self.client) for worker in self.workers if not worker.ended])


@asynccontextmanager
async def cluster(
    directory: Path,
    model_path: Path,
    *,
    workers: int = 2,
    worker: Sequence[str] = (),
    frontend: Sequence[str] = (),
    **variables: str,
) -> AsyncIterator[Cluster]:
    """A frontend with so many workers, all of which it can call; each with these options and variables."""
    async with Cluster(directory, model_path) as made:
        async with asyncio.TaskGroup() as starting:
            starting.create_task(made.start_frontend(*frontend, **variables))
            starting.create_task(made.add_workers(workers, *worker, **variables))
        if workers:
            await made.routable(workers)
        yield made

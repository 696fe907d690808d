"""The processes of a simulation, each on its host: workers, frontends, and callers without a frontend.

They do what the `__main__` of the shipped components do, with nothing of theirs replaced: the request plane is the
TCP plane on the simulated network, the discovery a seam of the simulation.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from tests.sim import bulk
from tests.sim.discovery import DiscoveryServer, SimDiscovery
from tests.sim.engine import SimEngine
from tests.sim.events import Air
from tests.sim.host import Host
from tests.sim.loop import SimLoop
from tests.tiny_model import tiny_model_path

from dynamo._core.context import Context
from dynamo._core.errors import DynamoError
from dynamo._core.request_plane.base import Address, Handler, Listener, ResponseStream
from dynamo._core.request_plane.tcp import TcpPlane
from dynamo.frontend._app import FrontendApp, create_app
from dynamo.llm import ModelInput, ModelType, PreprocessedRequest, register_llm, unregister_llm
from dynamo.llm._kv_router.config import RouterConfig
from dynamo.llm._models import ModelManager
from dynamo.runtime import Client, DistributedRuntime
from dynamo.runtime._timeouts import StreamTimeouts

ENDPOINT = "sim.worker.generate"
MODEL = "tiny"
DRAIN_S = 30.0
RESTART_S = (0.5, 3.0)

MakeEngine = Callable[[random.Random, float], SimEngine]
MakeDiscovery = Callable[[SimLoop], DiscoveryServer]


P = TypeVar("P", bound="Process")


class CheckedPlane:
    """The TCP plane of one host, which notes every call to an instance that its host was told is gone."""

    def __init__(self, cluster: Cluster, host: Host, discovery: SimDiscovery) -> None:
        self._plane = TcpPlane(host.address, insecure=True, local=False)
        self._cluster = cluster
        self._host = host
        self._discovery = discovery

    async def listen(self, handler: Handler) -> Listener:
        return await self._plane.listen(handler)

    async def call(self, to: Address, request: bytes, context: Context) -> ResponseStream:
        known = [value for feed in self._discovery.feeds for value in feed.known.values()]
        self._cluster.loop.note(f"calls {to} for {context.request_id}")
        if not any(to.encode() in value for value in known):
            self._cluster.wrongs.append(f"{self._host} called {to}, of whose removal it had been told")
        return await self._plane.call(to, request, context)

    async def close(self) -> None:
        await self._plane.close()


class Process:
    """What runs on a host, from its start to its end."""

    kind = "process"

    def __init__(self, cluster: Cluster, host: Host) -> None:
        self.cluster = cluster
        self.host = host
        #: The how manieth of its kind it is.
        self.number = int(host.name.rpartition("-")[2])
        self.discovery = cluster.server.party(host)
        self.runtime: DistributedRuntime | None = None
        self.events = cluster.air.plane()
        #: Set once it does its work.
        self.is_ready = asyncio.Event()
        #: Whether it ends, or was asked to.
        self.is_ending = False
        self.task = host.run(self._run(), name=f"main of {host}")

    async def _run(self) -> None:
        plane = CheckedPlane(self.cluster, self.host, self.discovery)
        rng = random.Random(f"{self.cluster.seed} {self.host}")
        try:
            runtime = DistributedRuntime(
                discovery=self.discovery, request_plane=plane, event_plane=self.events, rng=rng
            )
            async with runtime:
                self.runtime = runtime
                talk = self._talk()
                try:
                    await self._work(runtime, rng)
                finally:
                    talk.cancel()
                    await asyncio.wait([talk])
            if self.discovery.leases() and self.cluster.server.is_reached_by(self.host):
                self.cluster.wrongs.append(f"{self.host} has left and still has a lease")
        except DynamoError as error:
            self.cluster.loop.note(f"ends: {type(error).__name__}")
        finally:
            self.is_ending = True
            await plane.close()
            await self.events.close()
            await self.discovery.close()

    def _talk(self) -> asyncio.Task[None]:
        """What goes on beside the work."""
        return asyncio.create_task(self.cluster.air.listen(self.events, self.host))

    async def _work(self, runtime: DistributedRuntime, rng: random.Random) -> None:
        raise NotImplementedError

    async def wait_ready(self) -> None:
        """Return once it does its work. Raises what it failed with if it never will."""
        ready = asyncio.create_task(self.is_ready.wait())
        await asyncio.wait([ready, self.task], return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            ready.cancel()
            raise AssertionError(f"{self.host} did not start") from self.task.exception()

    def end(self) -> None:
        """Ask for an orderly end."""
        self.is_ending = True
        if self.runtime is not None and not self.task.done():
            self.host.run(_call(self.runtime.shutdown))

    @property
    def is_alive(self) -> bool:
        return not self.host.is_dead and not self.task.done()


class Worker(Process):
    """Serves the engine, and tells of the model."""

    kind = "worker"

    def __init__(self, cluster: Cluster, host: Host, pace_s: float, drain_s: float) -> None:
        self.engine: SimEngine | None = None
        self._pace_s = pace_s
        self._drain_s = drain_s
        super().__init__(cluster, host)

    def _talk(self) -> asyncio.Task[None]:
        return asyncio.create_task(self.cluster.air.publish(self.events))

    async def _work(self, runtime: DistributedRuntime, rng: random.Random) -> None:
        self.engine = self.cluster.make_engine(rng, self._pace_s)
        endpoint = runtime.endpoint(ENDPOINT)
        self.engine.start(endpoint)
        # As `serve_engine` does, with another time to drain.
        served = await endpoint.serve(self.engine.generate, request_type=PreprocessedRequest, drain_s=self._drain_s)
        beside = await runtime.endpoint(bulk.ENDPOINT).serve(
            self.cluster.bulk.produce, request_type=bulk.BulkRequest, drain_s=self._drain_s
        )
        try:
            await register_llm(
                ModelInput.Tokens,
                ModelType.Chat | ModelType.Completions,
                endpoint,
                str(tiny_model_path()),
                MODEL,
                context_length=self.engine.context_length,
                kv_cache_block_size=self.engine.kv_cache_block_size,
                runtime_config=self.engine.runtime_config,
            )
            self.is_ready.set()
            await runtime.wait_for_shutdown()
            await unregister_llm(endpoint)
        finally:
            await asyncio.gather(served.close(), beside.close())
            await self.engine.close()
            is_doomed = any(served.key in lease.doomed for lease in self.discovery.leases())
            if served.key in self.cluster.server.entries and not is_doomed:
                self.cluster.wrongs.append(f"{self.host} is still registered after it was closed")


class Frontend(Process):
    """Answers HTTP requests."""

    kind = "frontend"

    def __init__(self, cluster: Cluster, host: Host, request_timeout_s: float, router: RouterConfig) -> None:
        self.app: FrontendApp | None = None
        self.models: ModelManager | None = None
        self._request_timeout_s = request_timeout_s
        self._router = router
        super().__init__(cluster, host)

    async def _work(self, runtime: DistributedRuntime, rng: random.Random) -> None:
        async with ModelManager(runtime, router=self._router) as models:
            self.models = models
            self.app = create_app(models, request_timeout_s=self._request_timeout_s)
            await models.wait_ready()
            self.is_ready.set()
            await runtime.wait_for_shutdown()


class Caller(Process):
    """Calls the workers itself."""

    kind = "caller"

    def __init__(self, cluster: Cluster, host: Host, timeouts: StreamTimeouts | None) -> None:
        self.client: Client | None = None
        self.bulk: Client | None = None
        self._timeouts = timeouts
        super().__init__(cluster, host)

    async def _work(self, runtime: DistributedRuntime, rng: random.Random) -> None:
        self.client = await runtime.endpoint(ENDPOINT).client(timeouts=self._timeouts)
        self.bulk = await runtime.endpoint(bulk.ENDPOINT).client()
        await self.client.wait_for_instances()
        await self.bulk.wait_for_instances()
        self.is_ready.set()
        await runtime.wait_for_shutdown()


class Cluster:
    """All processes of one simulation."""

    def __init__(
        self,
        loop: SimLoop,
        seed: int | str,
        *,
        make_engine: MakeEngine = SimEngine,
        make_discovery: MakeDiscovery = DiscoveryServer,
    ) -> None:
        self.loop = loop
        self.seed = seed
        self.network = loop.network
        self.server = make_discovery(loop)
        self.air = Air(loop)
        self.bulk = bulk.Bulk()
        self.make_engine = make_engine
        self.processes: list[Process] = []
        #: What must not have happened.
        self.wrongs: list[str] = []
        #: Called with the next host before anything runs on it.
        self.on_next_host: Callable[[Host], None] | None = None
        self._numbers: dict[str, int] = {}

    def start_worker(self, pace_s: float, drain_s: float = DRAIN_S) -> Worker:
        return self._started(Worker(self, self._host("worker"), pace_s, drain_s))

    def start_frontend(self, request_timeout_s: float, router: RouterConfig | None = None) -> Frontend:
        return self._started(Frontend(self, self._host("frontend"), request_timeout_s, router or RouterConfig()))

    def start_caller(self, timeouts: StreamTimeouts | None = None) -> Caller:
        return self._started(Caller(self, self._host("caller"), timeouts))

    def workers(self) -> list[Worker]:
        """The workers that are there to stay."""
        return [one for one in self.processes if isinstance(one, Worker) and one.is_alive and not one.is_ending]

    def all_workers(self) -> list[Worker]:
        """Those that there ever were."""
        return [process for process in self.processes if isinstance(process, Worker)]

    def frontends(self) -> list[Frontend]:
        return [process for process in self.processes if isinstance(process, Frontend) and process.is_alive]

    def callers(self) -> list[Caller]:
        return [process for process in self.processes if isinstance(process, Caller) and process.is_alive]

    def alive(self) -> list[Process]:
        return [process for process in self.processes if process.is_alive]

    def heal(self) -> None:
        """End every fault but those that have ended processes."""
        self.loop.note("everything heals")
        self.network.heal()
        self.server.heal()
        self.air.bus.badness = 0.0
        self.air.bus.cut_off.clear()
        self.air.is_busy = False
        for process in self.processes:
            if process.host.is_stopped:
                process.host.go_on()
            if isinstance(process, Worker) and process.engine is not None and not process.host.is_dead:
                process.host.run(_call(process.engine.go_on))

    def _host(self, kind: str) -> Host:
        self._numbers[kind] = self._numbers.get(kind, 0) + 1
        host = self.network.host(f"{kind}-{self._numbers[kind]}")
        if self.on_next_host is not None:
            self.on_next_host(host)
            self.on_next_host = None
        return host

    def _started(self, process: P) -> P:
        self.processes.append(process)
        return process


@asynccontextmanager
async def ready_cluster(
    loop: SimLoop,
    seed: int | str,
    *,
    workers: int = 1,
    callers: int = 0,
    pace_s: float = 0.001,
    drain_s: float = DRAIN_S,
    timeouts: StreamTimeouts | None = None,
    make_engine: MakeEngine = SimEngine,
    router: RouterConfig | None = None,
) -> AsyncIterator[Cluster]:
    """A cluster with a frontend in which nothing goes wrong yet, ready to be asked."""
    cluster = Cluster(loop, seed, make_engine=make_engine)
    for _ in range(workers):
        cluster.start_worker(pace_s, drain_s)
    cluster.start_frontend(60.0, router)
    for _ in range(callers):
        cluster.start_caller(timeouts)
    for process in cluster.processes:
        await process.wait_ready()
    yield cluster


async def _call(function: Callable[[], None]) -> None:
    function()

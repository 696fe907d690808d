"""A cluster in one process: simulated engines, served and found through the real runtime, and a real router.

Every worker is a runtime of its own, with its own lease, and publishes its KV events; the planes between them are those
of one process. What a frontend does before it sends a request, which is to make tokens of words, has been done.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from dynamo._core.context import Context
from dynamo._core.discovery.memory import MemoryDiscovery
from dynamo._core.event_plane.inproc import EventBus, InprocEventPlane
from dynamo._core.prefix_index import WorkerKey
from dynamo._core.request_plane.inproc import InprocPlane
from dynamo.llm import EngineOutput, KvPublisher, PreprocessedRequest
from dynamo.llm._migration import Migration, MigrationPolicy, MigrationStats
from dynamo.llm._model_card import ModelCard
from dynamo.llm._poison import PoisonList
from dynamo.llm._workers import Serving, Workers
from dynamo.mocker import MockerConfig, MockerEngine, TimingModel
from dynamo.replay._policies import Policy
from dynamo.replay._truth import Truth
from dynamo.runtime import DistributedRuntime, Endpoint, StreamTimeouts

MODEL = "replay"
ENDPOINT = "replay.backend.generate"
#: A cluster that is too small makes requests wait, and the wait is what is measured.
NO_TIMEOUTS = StreamTimeouts(None, None)


class DelayingBus(EventBus):
    """Carries events as a network does: each takes its time."""

    def __init__(self, delay_s: float) -> None:
        super().__init__()
        self._delay_s = delay_s

    def event(self, subject: str, publisher_id: int, sequence: int, payload: bytes) -> None:
        carry = super().event
        asyncio.get_running_loop().call_later(self._delay_s, carry, subject, publisher_id, sequence, payload)

    def head(self, subject: str, publisher_id: int, sequence: int) -> None:
        carry = super().head
        asyncio.get_running_loop().call_later(self._delay_s, carry, subject, publisher_id, sequence)


class Cluster:
    """Workers and a router between which requests can be sent. Made by `open_cluster`."""

    def __init__(self, seed: int, event_delay_s: float) -> None:
        self._rng = random.Random(f"cluster {seed}")
        self._discovery = MemoryDiscovery(random=self._rng)
        self._requests = InprocPlane()
        self._bus = DelayingBus(event_delay_s)
        self._serving = Serving()
        self.truth = Truth()
        #: By instance, in the order of their making.
        self.engines: dict[int, MockerEngine] = {}
        self._migration: Migration | None = None

    @property
    def migration(self) -> Migration:
        """Sends requests, as a frontend does."""
        assert self._migration is not None, "the cluster is not open"
        return self._migration

    async def open(
        self, stack: AsyncExitStack, policy: Policy, config: MockerConfig, num_workers: int, timing: TimingModel | None
    ) -> None:
        """Start the workers, and the router when all are there."""
        for _ in range(num_workers):
            await self._open_worker(stack, config, timing)
        runtime = await self._join(stack)
        endpoint = runtime.endpoint(ENDPOINT)
        client = await endpoint.client(timeouts=NO_TIMEOUTS)
        await client.wait_for_instances(num_workers)
        workers = Workers(MODEL, client, self._serving, runtime.rng)
        stack.push_async_callback(workers.close)
        workers.router = await policy.open(endpoint, workers, next(iter(self._serving.cards.values())), self.truth)
        clock = asyncio.get_running_loop().time
        self._migration = Migration(MODEL, workers, MigrationPolicy(), MigrationStats(), PoisonList(clock), runtime.rng)

    async def _open_worker(self, stack: AsyncExitStack, config: MockerConfig, timing: TimingModel | None) -> None:
        runtime = await self._join(stack)
        endpoint = runtime.endpoint(ENDPOINT)
        worker_id = endpoint.lease_id()
        sinks = [
            self.truth.told_by(
                KvPublisher(endpoint, kv_block_size=config.block_size, dp_rank=rank), WorkerKey(worker_id, rank)
            )
            for rank in range(config.dp_size)
        ]
        engine = self.engines[worker_id] = MockerEngine(config, timing=timing, kv_event_sinks=sinks)
        stack.push_async_callback(engine.close)
        await _serve(endpoint, engine)
        self._serving.add(worker_id, _card(engine))

    async def _join(self, stack: AsyncExitStack) -> DistributedRuntime:
        rng = random.Random(self._rng.random())
        events = InprocEventPlane(self._bus, random=rng)
        stack.push_async_callback(events.close)
        runtime = DistributedRuntime(
            discovery=self._discovery, request_plane=self._requests, event_plane=events, work_queue="embedded:",
            rng=rng, system_server=False,
        )  # fmt: skip
        return await stack.enter_async_context(runtime)


@asynccontextmanager
async def open_cluster(
    policy: Policy,
    config: MockerConfig,
    num_workers: int,
    *,
    seed: int = 0,
    timing: TimingModel | None = None,
    event_delay_s: float = 0.0,
) -> AsyncIterator[Cluster]:
    """A cluster with so many workers, until the end of the block."""
    cluster = Cluster(seed, event_delay_s)
    async with AsyncExitStack() as stack:
        await cluster.open(stack, policy, config, num_workers, timing)
        yield cluster


async def _serve(endpoint: Endpoint, engine: MockerEngine) -> None:
    async def generate(request: PreprocessedRequest, context: Context) -> AsyncGenerator[EngineOutput, None]:
        async for output in engine.generate(request, context):
            yield output

    await endpoint.serve(generate, request_type=PreprocessedRequest, drain_s=0.0)


def _card(engine: MockerEngine) -> ModelCard:
    return ModelCard(
        display_name=MODEL,
        slug=MODEL,
        source_path="",
        context_length=engine.max_context_length,
        kv_cache_block_size=engine.kv_cache_block_size,
        runtime_config=engine.runtime_config,
    )

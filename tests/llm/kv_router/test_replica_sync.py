"""Routers that tell each other of their requests, while the event plane is away or something goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest
from tests.llm.kv.scene import until
from tests.llm.kv_router.cluster import BLOCK_SIZE, ENDPOINT, Cluster
from tests.llm.kv_router.test_kv_router import PROMPT, has_requests
from tests.llm.kv_router.worker_model import FixedWorkers

from dynamo._core.errors import CannotConnect
from dynamo._core.event_plane._inbox import Inbox
from dynamo._core.event_plane.inproc import EventBus, InprocEventPlane
from dynamo._core.virtual_clock import run_virtually
from dynamo.llm._kv_router.config import KvRouterConfig
from dynamo.llm._kv_router.fleet import Fleet
from dynamo.llm._kv_router.load import Tracking
from dynamo.llm._kv_router.replica_sync import RETRY_S_MAX, RETRY_S_MIN, TOPIC, ReplicaSync
from dynamo.llm._kv_router.replicas import Added, Batch, Replicas
from dynamo.llm._kv_router.router import KvRouter
from dynamo.llm._routing import RoutingConstraints
from dynamo.runtime import DistributedRuntime
from dynamo.runtime._component import Component

CONFIG = KvRouterConfig(router_replica_sync=True)


class PlaneThatComesBack(InprocEventPlane):
    """An event plane that cannot be reached at first."""

    def __init__(self, bus: EventBus) -> None:
        super().__init__(bus)
        self.is_away = True
        self.subscribed: list[str] = []

    def subscribe(self, subject: str) -> Inbox:
        if self.is_away:
            raise CannotConnect("the event plane is away")
        self.subscribed.append(subject)
        return super().subscribe(subject)

    async def publish(self, subject: str, payload: bytes) -> None:
        if self.is_away:
            raise CannotConnect("the event plane is away")
        await super().publish(subject, payload)


@asynccontextmanager
async def apart(cluster: Cluster) -> AsyncIterator[tuple[KvRouter, PlaneThatComesBack]]:
    """A router of a worker, whose event plane is away."""
    plane = PlaneThatComesBack(cluster.bus)
    runtime = DistributedRuntime(discovery=cluster.discovery, request_plane=cluster.requests, event_plane=plane)
    async with runtime:
        endpoint = runtime.endpoint(ENDPOINT)
        client = await endpoint.client()
        await client.wait_for_instances(timeout_s=60)
        async with KvRouter(endpoint, BLOCK_SIZE, CONFIG, client=client) as router:
            yield router, plane
    await plane.close()


async def test_a_router_starts_without_the_event_plane_and_hears_the_others_when_it_is_there(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cluster = Cluster()
    async with cluster.mocker(), cluster.kv_router(CONFIG) as other, apart(cluster) as (router, plane):
        await router.best_worker(PROMPT, request_id="own")
        await until(lambda: "the requests of other routers are not heard; trying again" in caplog.text)
        await until(lambda: "do not hear of this one" in caplog.text)
        plane.is_away = False
        await until(lambda: any(TOPIC in subject for subject in plane.subscribed))
        await other.best_worker(PROMPT, request_id="told")
        await has_requests(router, 2)
        await other.free("told")
        await has_requests(router, 1)


class FaultyReplicas(Replicas):
    """Fails at the first message."""

    num_heard = 0

    def hear(self, batch: Batch, now: float) -> None:
        self.num_heard += 1
        if self.num_heard == 1:
            raise KeyError("a fault")
        super().hear(batch, now)


async def test_after_a_fault_the_others_are_heard_again(caplog: pytest.LogCaptureFixture) -> None:
    host = Cluster()
    fleet = Fleet(FixedWorkers([1]))
    replicas = FaultyReplicas(1, BLOCK_SIZE, fleet, Tracking(), None)
    async with host.process() as hearing, host.process() as telling:
        sync = ReplicaSync(component_of(hearing), replicas)
        await sync.start()
        try:
            async with asyncio.timeout(60):
                while not replicas.num_remote:
                    await component_of(telling).publish(TOPIC, Batch(2, BLOCK_SIZE, [Added(1, 1, 0, 8, 8, [])]))
                    await asyncio.sleep(0.01)
        finally:
            await sync.close()
    assert "are not heard for a moment: a fault" in caplog.text
    assert fleet.loads([1])[0].prefill_tokens == 8


class TimedPlane(InprocEventPlane):
    """An event plane that notes when it was asked, and cannot be reached the first times."""

    NUM_FAULTS = 10

    def __init__(self, bus: EventBus) -> None:
        super().__init__(bus)
        self.tried_at: list[float] = []

    def subscribe(self, subject: str) -> Inbox:
        self.tried_at.append(asyncio.get_running_loop().time())
        if len(self.tried_at) <= self.NUM_FAULTS:
            raise CannotConnect("the event plane is away")
        return super().subscribe(subject)


def test_whoever_has_heard_the_others_for_a_while_tries_soon_again_when_that_ends() -> None:
    async def main() -> None:
        cluster = Cluster()
        plane = TimedPlane(cluster.bus)
        replicas = FaultyReplicas(1, BLOCK_SIZE, Fleet(FixedWorkers([1])), Tracking(), None)
        runtime = DistributedRuntime(discovery=cluster.discovery, request_plane=cluster.requests, event_plane=plane)
        async with runtime, cluster.process() as telling:
            sync = ReplicaSync(component_of(runtime), replicas)
            await sync.start()
            await asyncio.sleep(80.0)
            assert plane.tried_at[-1] - plane.tried_at[-2] == pytest.approx(RETRY_S_MAX)
            num, now = len(plane.tried_at), asyncio.get_running_loop().time()
            await component_of(telling).publish(TOPIC, Batch(2, BLOCK_SIZE, []))
            await asyncio.sleep(10.0)
            assert plane.tried_at[num:] == [pytest.approx(now + RETRY_S_MIN)]
            await sync.close()
        await plane.close()

    run_virtually(main())


class WorkersWithAFault(FixedWorkers):
    """Workers who cannot be looked at once."""

    num_faults = 0

    def runtime_config(self, instance_id: int) -> Mapping[str, object]:
        if self.num_asked and not self.num_faults:
            self.num_faults += 1
            raise KeyError("a fault")
        return {"taints": ["seen"]}


async def test_after_a_fault_a_router_sees_workers_come_and_go_again(caplog: pytest.LogCaptureFixture) -> None:
    host = Cluster()
    async with host.process() as runtime:
        workers = WorkersWithAFault([1])
        async with KvRouter(runtime.endpoint(ENDPOINT), BLOCK_SIZE, workers=workers) as router:
            await until(lambda: "could not look after what is gone: a fault" in caplog.text)
            wishes = RoutingConstraints(required_taints=frozenset({"seen"}))
            await until(lambda: workers.num_asked >= 2)
            assert (await router.best_worker(PROMPT, routing_constraints=wishes))[0] == 1


def component_of(runtime: DistributedRuntime) -> Component:
    return runtime.namespace("test").component("worker")

"""The account of a cluster: what it may not hold when nothing runs, and what may not be left when it has ended."""

from __future__ import annotations

import asyncio

import msgspec
from tests.sim.cached import CachedEngine, digest_of
from tests.sim.cluster import MODEL, Caller, Cluster, Frontend, Process, Worker
from tests.sim.host import Host

from dynamo._core.request_plane._connection import Connection
from dynamo.llm._kv_events import KvCacheChange, RouterEvent
from dynamo.llm._kv_router.router import KvRouter
from dynamo.llm._routing import Router
from dynamo.llm._routing_modes import ModeRouter

END_TIMEOUT_S = 60.0
_INSTANCES = "v1/instances/"


async def wrong_when_quiet(cluster: Cluster) -> list[str]:
    """Say what is held for a request although there is none, and who has a wrong view of the others."""
    wrongs = []
    for pipe in cluster.network.pipes:
        if not pipe.host.is_dead and isinstance(pipe.protocol, Connection) and pipe.protocol.has_streams():
            wrongs.append(f"a stream is left between {pipe.host} and {pipe.peer and pipe.peer.host}")
    for process in cluster.alive():
        booked = await _booked_by(process)
        wrongs += [f"{process.host} {what}" for what in (*_held_by(process), *booked, *_wrong_view_of(process))]
    wrongs += [f"{worker.host} {what}" for worker in cluster.all_workers() for what in _repeated_by(worker)]
    wrongs += cluster.bulk.wrongs()
    return wrongs + cluster.air.wrongs([process.events.publisher_id for process in cluster.alive()])


def _held_by(process: Process) -> list[str]:
    held = []
    if isinstance(process, Worker) and process.engine is not None:
        if process.engine.running:
            held.append(f"has places taken in its engine: {process.engine.running}")
        if isinstance(process.engine, CachedEngine):
            held += process.engine.wrongs()
    if isinstance(process, Frontend) and process.app is not None and len(process.app.active):
        held.append(f"counts {len(process.app.active)} requests")
    if process.runtime is not None:
        for endpoint, measured in process.runtime.measured().items():
            if measured.inflight:
                held.append(f"counts {measured.inflight} requests of {endpoint}")
    return held


async def _booked_by(process: Process) -> list[str]:
    booked = []
    for router in _routers_of(process):
        if isinstance(router, ModeRouter) and (num_requests := router.num_requests()):
            booked.append(f"has {num_requests} requests booked with workers")
        elif isinstance(router, KvRouter):
            loads = [{**load, "worker_id": 0} for load in await router.get_potential_loads([])]
            booked += [f"has booked with a worker: {load}" for load in loads if any(load.values())]
            booked += [
                f"has requests waiting: {waiting}" for waiting in [router.queue_lengths()] if any(waiting.values())
            ]
    return booked


def _routers_of(process: Process) -> list[Router]:
    models = process.models if isinstance(process, Frontend) else None
    return [] if models is None else list(models.routers().values())


async def wrong_indexes(cluster: Cluster, *, are_quiet: bool = False) -> list[str]:
    """Say which routers do not know what is in the caches; while they change, what was lately in them."""
    engines = {
        worker.runtime.lease.id: worker.engine
        for worker in cluster.workers()
        if isinstance(worker.engine, CachedEngine) and worker.runtime is not None and worker.is_ready.is_set()
    }
    wrongs = []
    for frontend in cluster.frontends():
        for router in _routers_of(frontend) if frontend.is_ready.is_set() else ():
            assert isinstance(router, KvRouter)
            known = _blocks_in(await router.dump_events())
            wrongs += [
                f"{frontend.host} knows {len(known[id])} blocks of {id:x}, which is not there"
                for id in known.keys() - engines
            ]
            for id, engine in engines.items():
                blocks = known.get(id, frozenset())
                if blocks != engine.block_hashes and (are_quiet or not engine.was_lately(digest_of(blocks))):
                    wrongs.append(
                        f"{frontend.host} knows {len(blocks)} blocks of {id:x}, which has {len(engine.block_hashes)}"
                    )
    return wrongs


def _blocks_in(dumped: str) -> dict[int, frozenset[int]]:
    """The blocks of each worker in what a router has dumped."""
    blocks: dict[int, frozenset[int]] = {}
    for event in msgspec.json.decode(dumped, type=list[RouterEvent]):
        assert isinstance(event.event.data, KvCacheChange)
        assert event.event.data.stored
        held = [block.block_hash for block in event.event.data.stored.blocks]
        blocks[event.worker_id] = blocks.get(event.worker_id, frozenset()).union(held)
    return blocks


def _repeated_by(worker: Worker) -> list[str]:
    """No request goes back to a worker that it has lost, nor is it ever sent to one twice."""
    begun = {} if worker.engine is None else worker.engine.begun
    return [f"has begun {request_id} {count} times" for request_id, count in begun.items() if count > 1]


def _wrong_view_of(process: Process) -> list[str]:
    """Who follows the instances knows those that there are; who serves is one of them."""
    there = {key.rpartition("/")[2] for key in process.cluster.server.entries if key.startswith(_INSTANCES)}
    known = there
    if isinstance(process, Caller) and process.client is not None:
        known = {f"{instance_id:x}" for instance_id in process.client.instance_ids()}
    elif isinstance(process, Frontend) and process.models is not None:
        known = {name.rpartition("/")[2] for name in process.models.instances().get(MODEL, [])}
    elif isinstance(process, Worker) and process.runtime is not None and not process.is_ending:
        known = there | {f"{process.runtime.lease.id:x}"}
    return [] if known == there else [f"knows the instances {sorted(known)}, and there are {sorted(there)}"]


async def end_all(cluster: Cluster) -> list[str]:
    """Ask everyone to end, and say what is left of them."""
    wrongs = []
    # Those who call end first, so that what they leave is not ended by those whom they called.
    for process in sorted(cluster.processes, key=lambda process: isinstance(process, Worker)):
        if process.is_alive:
            process.end()
            await asyncio.wait([process.task], timeout=END_TIMEOUT_S)
            await asyncio.sleep(1.0)
        if process.task.done() and not process.task.cancelled() and (error := process.task.exception()):
            wrongs.append(f"{process.host} raised {error!r}")
        if not process.host.is_dead:
            wrongs += [f"{process.host} {what}" for what in _left_on(cluster, process.host)]
    return wrongs


def _left_on(cluster: Cluster, host: Host) -> list[str]:
    network, party = cluster.network, cluster.server.parties[host]
    leases = [lease for lease in cluster.server.leases.values() if lease.owner is party]
    return [
        *(f"still runs {task!r}" for task in host.tasks),
        *(f"still waits for {timer!r}" for timer in cluster.loop.timers_of(host)),
        *(f"still is connected to {pipe.peer and pipe.peer.host}" for pipe in network.pipes if pipe.host is host),
        *(f"still listens at {port}" for port in network.listening(host)),
        *(f"still watches {feed.prefix}" for feed in party.feeds),
        *(f"still has the lease {lease.id:x}" for lease in leases),
        *(f"is still known by {key}" for key, (_, lease) in cluster.server.entries.items() if lease in leases),
    ]

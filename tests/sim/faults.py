"""Making a fault happen, and mending it when its time is up."""

from __future__ import annotations

import asyncio

from tests.sim.cluster import RESTART_S, Cluster, Frontend, Process, Worker
from tests.sim.scenario import Fault, Scenario

CLOG_S = 3.0
LOSS = 0.3


async def make(cluster: Cluster, fault: Fault, scenario: Scenario) -> None:
    """Have the fault begin now, and end after its time. Ends early only with the task."""
    at_work: list[Process] = [process for process in cluster.alive() if process.is_ready.is_set()]
    workers = [process for process in at_work if isinstance(process, Worker)]
    others = [process for process in at_work if not isinstance(process, Worker)]
    if scenario.is_sheltered:
        workers = [worker for worker in workers if worker.number > 1]
    if not workers:
        return
    worker = workers[fault.one % len(workers)]
    peer = others[fault.other % len(others)] if others else worker
    cluster.loop.note(f"fault {fault.kind} for {fault.for_s:.3f} s: {worker.host}, {peer.host}")
    network = cluster.network
    match fault.kind:
        case "crash" | "vanish":
            network.crash(worker.host, silently=fault.kind == "vanish")
            await _restart(cluster, fault, scenario)
        case "end":
            worker.end()
            await _restart(cluster, fault, scenario)
        case "crash frontend":
            if isinstance(peer, Frontend) or len(others) > 1:
                network.crash(peer.host, silently=fault.amount < 0.5)
            if isinstance(peer, Frontend):
                await asyncio.sleep(_down_s(fault))
                cluster.start_frontend(scenario.request_timeout_s, scenario.router)
        case "stop":
            victim = worker if fault.amount < 0.8 or scenario.is_sheltered else peer
            victim.host.stop()
            await asyncio.sleep(fault.for_s)
            victim.host.go_on()
        case "stick":
            assert worker.engine is not None
            worker.engine.stick()
            await asyncio.sleep(fault.for_s)
            worker.engine.go_on()
        case "cut" | "cut one way":
            ways = [(worker.host, peer.host), (peer.host, worker.host)]
            if fault.kind == "cut one way":
                ways = ways[: 1 if fault.amount < 0.5 else None][-1:]
            for source, target in ways:
                network.cut(source, target)
            await asyncio.sleep(fault.for_s)
            for source, target in ways:
                network.mend(source, target)
        case "clog":
            network.clog(worker.host, peer.host, CLOG_S * fault.amount)
            await asyncio.sleep(fault.for_s)
            network.mend(worker.host, peer.host)
        case "reset":
            network.reset(worker.host, peer.host)
        case "loss":
            network.loss = LOSS * fault.amount
            await asyncio.sleep(fault.for_s)
            network.loss = 0.0
        case "bad air":
            cluster.air.bus.badness = fault.amount
            await asyncio.sleep(fault.for_s)
            cluster.air.bus.badness = 0.0
        case "no air":
            host = worker.host if fault.amount < 0.5 else peer.host
            cluster.air.bus.cut_off.add(host)
            await asyncio.sleep(fault.for_s)
            cluster.air.bus.cut_off.discard(host)
        case "restart engine":
            assert worker.engine is not None
            worker.host.run(worker.engine.restart())
        case "lose leases":
            cluster.server.lose_leases(worker.host)
        case "cut off discovery":
            victim = worker if fault.amount < 0.5 else peer
            cluster.server.cut_off(victim.host)
            await asyncio.sleep(fault.for_s)
            cluster.server.mend(victim.host)
        case "discovery down":
            cluster.server.is_down = True
            await asyncio.sleep(fault.for_s)
            cluster.server.is_down = False


async def _restart(cluster: Cluster, fault: Fault, scenario: Scenario) -> None:
    """A supervisor starts another worker in place of one that has ended."""
    await asyncio.sleep(_down_s(fault))
    cluster.start_worker(scenario.pace_s, scenario.drain_s)


def _down_s(fault: Fault) -> float:
    least_s, most_s = RESTART_S
    return least_s + (most_s - least_s) * fault.amount

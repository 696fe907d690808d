"""Failing, or being cancelled, at the n-th await of a task.

A cluster with one worker, one frontend and one caller does one thing in one task: a request, or the whole life of
a process. The task is interrupted once. What must hold is what must hold of every run: nothing is left of it, and
the others, or its successor, go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tests.sim.account import end_all, wrong_when_quiet
from tests.sim.cluster import Cluster
from tests.sim.host import Host
from tests.sim.load import Outcome, check_call, check_http, send_call, send_http
from tests.sim.loop import SimLoop, run
from tests.sim.scenario import Ask, Call, HttpRequest
from tests.sim.simulate import learn, reference

How = Literal["fails", "is cancelled"]
What = Literal["http", "http complete", "call", "handler", "worker", "frontend", "caller"]

ASK = Ask("an interrupted request", 30)
CALL = Call("call", 0.0, 0, (20, 21, 22), 30)
NEXT_CALL = replace(CALL, name="next-call")
MARK = "injected"
#: The process whose life is interrupted does its work for so long.
WORK_S = 1.0
END_TIMEOUT_S = 60.0


class Injected(OSError):
    """What an interrupted await raises."""


class Interrupter:
    """Interrupts one task at its n-th await; 0 is none."""

    def __init__(self, loop: SimLoop, n: int, how: How) -> None:
        self.num_awaits = 0
        self._loop = loop
        self._n = n
        self._how = how

    def watch(self, host: Host) -> None:
        """The next task that starts on the host is the one."""

        def wrap(work: Coroutine[object, object, object]) -> Coroutine[object, object, object]:
            host.wrap = None
            return _Watched(self, work)

        host.wrap = wrap

    def resume(self, work: Coroutine[Any, Any, Any]) -> object:
        """Take a step of the task."""
        if self._how == "fails" and self.num_awaits == self._n and self._n:
            self.num_awaits += 1
            return work.throw(Injected(MARK))
        awaited = work.send(None)
        self.num_awaits += 1
        if self._how == "is cancelled" and self.num_awaits == self._n:
            task = asyncio.current_task()
            assert task is not None
            self._loop.call_soon(task.cancel)
        return awaited


class _Watched(Coroutine[Any, Any, Any]):
    """A coroutine each of whose steps is counted."""

    def __init__(self, interrupter: Interrupter, work: Coroutine[Any, Any, Any]) -> None:
        self._interrupter = interrupter
        self._work = work

    def send(self, value: object) -> object:
        return self._interrupter.resume(self._work)

    def throw(self, *error: Any) -> object:
        return self._work.throw(*error)

    def close(self) -> None:
        self._work.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        raise AssertionError("only tasks run it")


@dataclass
class Interruption:
    """What came of it."""

    num_awaits: int = 0
    wrongs: list[str] = field(default_factory=list)


def interrupt(what: What, how: How, n: int, seed: int = 0) -> Interruption:
    """Interrupt a task at its n-th await, and say how many it had and what was wrong."""
    learn([ASK])
    interruption = Interruption()

    async def main(loop: SimLoop) -> None:
        interrupter = Interrupter(loop, n, how)
        cluster = Cluster(loop, seed)
        wrongs = await _play(cluster, interrupter, what)
        wrongs += cluster.wrongs + loop.uncaught
        interruption.num_awaits = interrupter.num_awaits
        interruption.wrongs = [wrong for wrong in wrongs if MARK not in wrong]

    run(main, seed)
    return interruption


async def _play(cluster: Cluster, interrupter: Interrupter, what: What) -> list[str]:
    starts: dict[str, Callable[[], object]] = {
        "worker": lambda: cluster.start_worker(0.01),
        "frontend": lambda: cluster.start_frontend(60.0),
        "caller": cluster.start_caller,
    }
    if what in starts:
        cluster.on_next_host = interrupter.watch
        starts[what]()
    for start in starts.values():
        start()
    cluster.on_next_host = None
    for process in cluster.processes[-len(starts) :]:
        await process.is_ready.wait()
    if what in starts:
        await asyncio.sleep(WORK_S)
        cluster.processes[0].end()
        await asyncio.wait([cluster.processes[0].task], timeout=END_TIMEOUT_S)
    else:
        await _ask(cluster, interrupter, what)
    cluster.air.is_busy = False
    await asyncio.sleep(1.0)
    wrongs = await _ask_again(cluster)
    await asyncio.sleep(END_TIMEOUT_S)
    return wrongs + await wrong_when_quiet(cluster) + await end_all(cluster)


async def _ask(cluster: Cluster, interrupter: Interrupter, what: What) -> None:
    """A request that is interrupted; what it ends with is its own affair."""
    [worker], [frontend], [caller] = cluster.workers(), cluster.frontends(), cluster.callers()
    outcome = Outcome("interrupted")
    if what == "handler":
        interrupter.watch(worker.host)
        await send_call(cluster, caller, CALL, outcome)
    elif what == "call":
        interrupter.watch(caller.host)
        await send_call(cluster, caller, CALL, outcome)
    else:
        interrupter.watch(frontend.host)
        await send_http(frontend, HttpRequest("interrupted", 0.0, 0, ASK, is_stream=what == "http"), outcome)
    cluster.loop.note(f"{outcome.how} {outcome.code}")


async def _ask_again(cluster: Cluster) -> list[str]:
    """The next requests are answered as if nothing had been."""
    [frontend], [caller] = cluster.frontends(), cluster.callers()
    request = HttpRequest("next-http", 0.0, 0, ASK)
    http, call = Outcome(request.name), Outcome(NEXT_CALL.name)
    await asyncio.wait_for(send_http(frontend, request, http), END_TIMEOUT_S)
    await asyncio.wait_for(send_call(cluster, caller, NEXT_CALL, call), END_TIMEOUT_S)
    wrongs = check_http(request, http, reference[ASK], must_finish=True) + check_call(NEXT_CALL, call)
    return wrongs if call.how == "finished" else [*wrongs, f"the next call {call.how} {call.code}"]

"""serve: how soon `dynamo serve` has a graph of ten services ready, and how soon Ctrl-C has cleared it.

The graph is generated: a chain, in which each service calls the next, or a star, in which the first calls
all others. `ready` counts from the start of the process to its line that says so, `cleared` from SIGINT to
the end of the last process of the graph, and `CPU` is what all of them used together: on a machine that
does other work, it is the steadiest figure.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from benchmarks.children import BenchmarkFailed, Child, stage
from benchmarks.report import Column, Measurement, Results
from benchmarks.systems import System

SERVICES = 10
COLUMNS = (Column("ready_s", "ready s"), Column("cleared_s", "cleared s"), Column("cpu_s", "CPU s"))
RATIO_HEADING = ""
_REPEATS = 5
_DEADLINE_S = 90.0
_POLL_S = 0.01

_SERVICE = """
@service(dynamo={{"namespace": "bench"}})
class Service{number}:
{dependencies}
    @dynamo_endpoint()
    async def generate(self, request: Request) -> AsyncIterator[str]:
        yield request.text

"""
_HEAD = """from collections.abc import AsyncIterator

from pydantic import BaseModel

from dynamo.sdk import depends, dynamo_endpoint, service


class Request(BaseModel):
    text: str

"""


async def measure(systems: Sequence[System], options: argparse.Namespace, say: Callable[[str], None]) -> Results:
    """Serve each graph in turn, `options.runs` times; several times in each run."""
    results = Results()
    graphs = {"chain": _chain(), "star": _star()}
    for run in range(options.runs):
        for _ in range(1 if options.quick else _REPEATS):
            for name, graph in graphs.items():
                say(f"run {run + 1} of {options.runs}: a {name} of {SERVICES} services")
                figures = await _run(systems[0], graph)
                results.measurements.append(Measurement("ours", run, f"{name} of {SERVICES}", 1, figures))
    return results


async def _run(system: System, graph: str) -> dict[str, float]:
    cpu_s = _cpu_of_children_s()
    async with stage(system) as processes:
        (processes.directory / "graph.py").write_text(graph)
        began = time.monotonic()
        serving = await processes.start(
            "dynamo.cli", "serve", "graph:Service0", "--working-dir", str(processes.directory)
        )
        await _printed(serving, "ready in ")
        ready_s = time.monotonic() - began
        pids = [serving.pid, *_descendants(serving.pid)]
        os.kill(serving.pid, signal.SIGINT)
        interrupted = time.monotonic()
        await serving.ended()
        if left := [pid for pid in pids if _runs(pid)]:
            raise BenchmarkFailed(f"processes {left} are left{serving.output()}")
        cleared_s = time.monotonic() - interrupted
    if len(pids) < SERVICES + 1:
        raise BenchmarkFailed(f"only {len(pids)} processes ran for {SERVICES} services")
    return {"ready_s": ready_s, "cleared_s": cleared_s, "cpu_s": _cpu_of_children_s() - cpu_s}


async def _printed(child: Child, text: str) -> None:
    deadline = time.monotonic() + _DEADLINE_S
    while text not in child.output():
        child.check_alive()
        if time.monotonic() > deadline:
            raise BenchmarkFailed(f"{child.name} is not ready after {_DEADLINE_S:.0f} s{child.output()}")
        await asyncio.sleep(_POLL_S)


def _chain() -> str:
    """The last service first, since a class must be there before another depends on it."""
    calls: dict[int, Iterable[int]] = {number: [number + 1] for number in range(SERVICES - 1)}
    return _graph(calls)


def _star() -> str:
    return _graph({0: range(1, SERVICES)})


def _graph(calls: dict[int, Iterable[int]]) -> str:
    parts = [_HEAD]
    for number in reversed(range(SERVICES)):
        targets = calls.get(number, ())
        dependencies = "\n".join(f"    service{target} = depends(Service{target})" for target in targets)
        parts.append(_SERVICE.format(number=number, dependencies=dependencies))
    return "\n".join(parts)


def _descendants(pid: int) -> list[int]:
    children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [*children, *(one for child in children for one in _descendants(child))]


def _runs(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _cpu_of_children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime

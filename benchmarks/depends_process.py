"""A process of the depends benchmark: it runs one of the two services, and with `--plan` measures, too.

The process that runs the caller drives it: it keeps as many requests to it open as the cell wants, so that
each series of calls belongs to a request of its own, as in a graph that serves.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.depends_services import Answering, Caller, Cell
from dynamo.runtime import Client, DistributedRuntime, dynamo_worker
from dynamo.sdk import service_of
from dynamo.sdk._runner import ServiceRunner

_WARM_UP_S = 0.1


async def answer(runtime: DistributedRuntime) -> None:
    """Serve until the runtime ends."""
    runner = ServiceRunner(service_of(Answering), runtime)
    await runner.start()
    await runtime.wait_for_shutdown()
    await runner.stop()


async def measure(runtime: DistributedRuntime, plan: list[dict[str, Any]], window_s: float) -> list[dict[str, float]]:
    """Measure the cells of the plan, one after the other."""
    runner = ServiceRunner(service_of(Caller), runtime)
    await runner.start()
    client = await runtime.endpoint("bench.Caller.measure").client()
    figures = []
    for cell in plan:
        await _window(client, cell, _WARM_UP_S)
        figures.append(await _window(client, cell, window_s))
    await runner.stop()
    return figures


async def _window(client: Client, cell: dict[str, Any], window_s: float) -> dict[str, float]:
    request = Cell(workload=cell["workload"], way=cell["way"], window_s=window_s)
    cpu_s = time.process_time()
    series: list[dict[str, Any]] = await asyncio.gather(*(_series(client, request) for _ in range(cell["concurrency"])))
    calls = sum(one["calls"] for one in series)
    elapsed_s = max(one["elapsed_s"] for one in series)
    return {
        "us_per_call": elapsed_s / calls * 1e6,
        "caller_cpu_us_per_call": (time.process_time() - cpu_s) / calls * 1e6,
    }


async def _series(client: Client, request: Cell) -> Any:
    [answer] = [item async for item in await client.generate(request, annotated=False)]
    return answer


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--plan", help="measure these cells, a list in JSON; without it, answer")
    parser.add_argument("--window-s", type=float, default=0.0)
    parser.add_argument("--report", type=Path)
    arguments = parser.parse_args()

    @dynamo_worker()
    async def main(runtime: DistributedRuntime) -> None:
        if arguments.plan is None:
            await answer(runtime)
        else:
            figures = await measure(runtime, json.loads(arguments.plan), arguments.window_s)
            arguments.report.write_text(json.dumps(figures))

    uvloop.install()
    asyncio.run(main())

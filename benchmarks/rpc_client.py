"""The load generator of the rpc benchmark; runs unchanged under either system.

It keeps a number of requests open until the window is over, lets those finish, and checks each item of
each stream. Reports one set of figures per cell of the plan.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.figures import percentile
from benchmarks.machine import cpu_s
from benchmarks.rpc_items import ENDPOINT, TEXT
from dynamo.runtime import Client, DistributedRuntime, dynamo_worker

_WARM_UP_S = 0.3


async def main(runtime: DistributedRuntime, options: argparse.Namespace) -> list[dict[str, float]]:
    client = await runtime.endpoint(ENDPOINT).client()
    await client.wait_for_instances()
    return [await measure(client, cell, options) for cell in json.loads(options.plan)]


async def measure(client: Client, cell: dict[str, Any], options: argparse.Namespace) -> dict[str, float]:
    """Warm up, run one window, and return its figures."""
    request = {"items": cell["items"], "pauses": cell["pauses"]}
    await _window(client, request, cell["concurrency"], _WARM_UP_S)
    before_s = cpu_s(options.server_pid), time.process_time()
    began = time.perf_counter()
    first_items_s = await _window(client, request, cell["concurrency"], options.window_s)
    elapsed_s = time.perf_counter() - began
    server_s, client_s = cpu_s(options.server_pid) - before_s[0], time.process_time() - before_s[1]
    items = len(first_items_s) * cell["items"]
    return {
        "requests_per_s": len(first_items_s) / elapsed_s,
        "items_per_s": items / elapsed_s,
        "first_item_p50_ms": percentile(first_items_s, 50) * 1e3,
        "first_item_p99_ms": percentile(first_items_s, 99) * 1e3,
        "server_us_per_item": server_s / items * 1e6,
        "client_us_per_item": client_s / items * 1e6,
        "server_cores": server_s / elapsed_s,
        "client_cores": client_s / elapsed_s,
    }


async def _window(client: Client, request: dict[str, Any], concurrency: int, window_s: float) -> list[float]:
    """Return the time to the first item of every request that was started within the window."""
    first_items_s: list[float] = []
    end = time.perf_counter() + window_s
    await asyncio.gather(*(_caller(client, request, end, first_items_s) for _ in range(concurrency)))
    return first_items_s


async def _caller(client: Client, request: dict[str, Any], end: float, first_items_s: list[float]) -> None:
    items = request["items"]
    while (started := time.perf_counter()) < end:
        index = 0
        stream: AsyncIterator[Any] = await client.generate(request, annotated=False)
        async for item in stream:
            if index == 0:
                first_items_s.append(time.perf_counter() - started)
            if item["index"] != index or item["text"] != TEXT:
                raise RuntimeError(f"item {index} of a stream is wrong: {item!r}")
            index += 1
        if index != items:
            raise RuntimeError(f"a stream ended after {index} of {items} items")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--plan", required=True)
    parser.add_argument("--window-s", type=float, required=True)
    parser.add_argument("--server-pid", type=int, required=True)
    parser.add_argument("--report", type=Path, required=True)
    arguments = parser.parse_args()
    figures: list[dict[str, float]] = []

    @dynamo_worker()
    async def run(runtime: DistributedRuntime) -> None:
        figures.extend(await main(runtime, arguments))

    uvloop.install()
    asyncio.run(run())
    arguments.report.write_text(json.dumps(figures))

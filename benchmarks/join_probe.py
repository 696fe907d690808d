"""Report how long a worker takes to join: it is started while a client waits for it, and called at once.

Runs unchanged under either system; the worker is a child of this process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path

import uvloop

from benchmarks.rpc_items import ENDPOINT
from dynamo.runtime import DistributedRuntime, dynamo_worker


async def main(runtime: DistributedRuntime, serving_file: Path) -> tuple[float, float]:
    client = await runtime.endpoint(ENDPOINT).client()
    began = time.monotonic()
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.rpc_server", "--serving-file", str(serving_file)
    )
    try:
        await client.wait_for_instances()
        items = [item async for item in await client.generate({"items": 1, "pauses": False}, annotated=False)]
        answered = time.monotonic()
    finally:
        worker.kill()
        await worker.wait()
    if len(items) != 1:
        raise RuntimeError(f"the worker answered {items!r}")
    return began, answered


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--report", type=Path, required=True)
    options = parser.parse_args()
    times_s: list[tuple[float, float]] = []
    serving_file = options.report.with_suffix(".serving")

    @dynamo_worker()
    async def run(runtime: DistributedRuntime) -> None:
        times_s.append(await main(runtime, serving_file))

    uvloop.install()
    asyncio.run(run())
    [(began_s, answered_s)] = times_s
    # The monotonic clock is the same for all processes of a machine.
    serving_s = float(serving_file.read_text())
    figures = {"start_ms": (answered_s - began_s) * 1e3, "serve_ms": (answered_s - serving_s) * 1e3}
    options.report.write_text(json.dumps(figures))

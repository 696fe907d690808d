"""Follows the instances of an endpoint, and reports what that took: memory for all, CPU for each change."""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import time
from pathlib import Path

import uvloop

from benchmarks import machine
from benchmarks.rpc_items import ENDPOINT
from dynamo.runtime import Client, DistributedRuntime

_DEADLINE_S = 90.0


async def main(count: int, window_s: float) -> dict[str, float]:
    async with DistributedRuntime() as runtime:
        await runtime.endpoint("bench.rpc.nobody").client()  # so that what is loaded for any client is loaded
        before_mb = _memory_mb()
        client = await runtime.endpoint(ENDPOINT).client()
        await _until_all_are_there(client)
        known_mb = _memory_mb()
        began_s, first, last_id = time.process_time(), time.monotonic(), max(client.instance_ids())
        await asyncio.sleep(window_s)
        cpu_s, took_s = time.process_time() - began_s, time.monotonic() - first
        ids = client.instance_ids()
        if not count - 1 <= len(ids) <= count or ids != list(range(ids[0], ids[-1] + 1)):
            raise RuntimeError(f"{len(ids)} instances are known, from {ids[0]} to {ids[-1]}; it should be {count}")
        changes = 2 * (ids[-1] - last_id)
        if changes < 2:
            raise RuntimeError("nobody joined or left")
        return {
            "cpu_ms_per_change": cpu_s / changes * 1e3,
            "memory_mb": known_mb - before_mb,
            "memory_end_mb": _memory_mb() - before_mb,
            "changes_per_s": changes / took_s,
        }


def _memory_mb() -> float:
    gc.collect()
    return machine.rss_mb(os.getpid())


async def _until_all_are_there(client: Client) -> None:
    """Wait until all are there, and the first of them has left."""
    async with asyncio.timeout(_DEADLINE_S):
        while not (ids := client.instance_ids()) or ids[0] == 1:
            await client.wait_for_change()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--window-s", type=float, required=True)
    parser.add_argument("--report", type=Path, required=True)
    options = parser.parse_args()
    uvloop.install()
    options.report.write_text(json.dumps(asyncio.run(main(options.count, options.window_s))))

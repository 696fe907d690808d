"""A worker process for the tests: serves `test.counter.count`, which counts slowly for ever, or to `to`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from dynamo.runtime import DistributedRuntime, dynamo_worker


async def count(request: dict[str, int]) -> AsyncIterator[int]:
    number = 0
    while number < request.get("to", 1 << 60):
        yield number
        number += 1
        await asyncio.sleep(0.01)


@dynamo_worker()
async def worker(runtime: DistributedRuntime) -> None:
    print("starting", flush=True)
    await runtime.endpoint("test.counter.count").serve_endpoint(count)
    print("drained", flush=True)


if __name__ == "__main__":
    asyncio.run(worker())

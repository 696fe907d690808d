"""A worker that publishes an event for each request before it answers."""

from __future__ import annotations

import asyncio

from dynamo.runtime import DistributedRuntime, dynamo_worker


@dynamo_worker()
async def worker(runtime: DistributedRuntime) -> None:
    async def double(number: int) -> int:
        await runtime.events.publish("nats/asked", number)
        return 2 * number

    await runtime.events.open()
    await runtime.endpoint("nats.Worker.double").serve(double)
    print("serving", flush=True)
    await runtime.wait_for_shutdown()


if __name__ == "__main__":
    asyncio.run(worker())

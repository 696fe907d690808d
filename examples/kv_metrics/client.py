"""Asks the router where to go, and goes there."""

import asyncio

from dynamo.runtime import Client, DistributedRuntime, dynamo_worker


async def ask(router: Client, workers: Client, tokens: list[int], known_blocks: int) -> None:
    """Send a request to the worker that the router chooses, as soon as the router knows of so many blocks."""
    choice = {"cached_blocks": -1}
    async with asyncio.timeout(30):
        while choice["cached_blocks"] < known_blocks:  # events take a moment
            [choice] = [item async for item in await router.generate({"tokens": tokens}, annotated=False)]
    [answer] = [item async for item in await workers.direct({"tokens": tokens}, choice["worker_id"], annotated=False)]
    print(f"{len(tokens)} tokens: {answer['cached_blocks']} of {answer['total_blocks']} blocks were cached")


@dynamo_worker()
async def main(runtime: DistributedRuntime) -> None:
    router = await runtime.endpoint("your_namespace.Router.generate").client()
    workers = await runtime.endpoint("your_namespace.CachingWorker.generate").client()
    await router.wait_for_instances()
    await workers.wait_for_instances(2)
    prompt = list(range(16))
    await ask(router, workers, prompt, known_blocks=0)
    await ask(router, workers, prompt, known_blocks=4)
    await ask(router, workers, [*prompt, *range(100, 108)], known_blocks=4)


if __name__ == "__main__":
    asyncio.run(main())

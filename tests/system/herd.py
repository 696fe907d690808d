"""Many callers of one endpoint in a few processes, and the worker that they call.

Each client has a runtime of its own, and so its own connections, its own view of who is alive and its own
quarantine: for a worker it is what a frontend on another host would be. They share processes because fifty more
would be all that a small host can do.

`python -m tests.system.herd serve` answers each request with its double. `... burst` waits for an instance and then
asks as much as it may, once; `... steady` asks until it is told to end. Both then print what they saw.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import msgspec

from dynamo._core.errors import DynamoError
from dynamo.runtime import Client, DistributedRuntime
from dynamo.runtime._logging import set_up_logging

ENDPOINT = "herd.Worker.double"
WORK_S = 0.01
#: Between two requests of a steady client, at random.
PAUSE_S = (0.1, 0.3)
#: Requests of a steady client that run at a time.
STEADY_REQUESTS = 2
#: What is said when a client begins to pass over an instance, when it passes over none any more, and at the end.
PASSED_OVER, TAKEN_BACK, RESULT = "passed over", "taken back", "result: "


class Seen(msgspec.Struct):
    """What the clients of one process have seen."""

    num_asked: int = 0
    num_right: int = 0
    #: Requests that failed, by the code of their error.
    errors: dict[str, int] = {}
    #: How often an instance began to be passed over.
    num_passed_over: int = 0
    #: The most requests that one client had at an instance that it passed over.
    num_probes_max: int = 0


class Asker:
    """One client, and what becomes of its requests."""

    def __init__(self, client: Client, seen: Seen) -> None:
        self._client = client
        self._seen = seen
        self._num_probes = 0
        self._passes_over = False

    async def ask(self, number: int) -> None:
        """Send one request, and count how it ends."""
        self._seen.num_asked += 1
        is_probe = False
        try:
            stream = await self._client.generate(number, annotated=False)
            is_probe = self._client.is_passed_over(stream.instance_id)
            self._num_probes += is_probe
            self._seen.num_probes_max = max(self._seen.num_probes_max, self._num_probes)
            answers = [answer async for answer in stream]
            assert answers == [2 * number], f"the double of {number} is not {answers}"
            self._seen.num_right += 1
        except DynamoError as error:
            self._seen.errors[error.code] = self._seen.errors.get(error.code, 0) + 1
        finally:
            self._num_probes -= is_probe
            self._look()

    def _look(self) -> None:
        """Say when it begins to pass over an instance, and when it ends."""
        passes_over = any(map(self._client.is_passed_over, self._client.instance_ids()))
        if passes_over != self._passes_over:
            self._passes_over = passes_over
            print(PASSED_OVER if passes_over else TAKEN_BACK, flush=True)


async def serve(options: argparse.Namespace) -> None:
    async def double(number: int) -> int:
        await asyncio.sleep(WORK_S)
        return 2 * number

    async with DistributedRuntime() as runtime:
        _on_sigterm(runtime.shutdown)
        limits = {} if options.limit is None else {"max_concurrent_requests": options.limit, "max_queued_requests": 0}
        await runtime.endpoint(ENDPOINT).serve(double, **limits)
        print("serving", flush=True)
        await runtime.wait_for_shutdown()


async def burst(options: argparse.Namespace) -> None:
    """Have each client ask `--requests` times, so many at a time, as soon as there is anybody to ask."""

    async def one(client: Client, asker: Asker) -> None:
        await client.wait_for_instances(options.instances)
        for begin in range(0, options.requests, options.at_a_time):
            numbers = range(begin, min(begin + options.at_a_time, options.requests))
            await asyncio.gather(*(asker.ask(number) for number in numbers))

    await _with_clients(options.clients, one)


async def steady(options: argparse.Namespace) -> None:
    """Have each client ask again and again, until SIGTERM."""
    over = asyncio.Event()
    _on_sigterm(over.set)
    rng = random.Random(options.seed)

    async def loop_of(asker: Asker) -> None:
        number = 0
        while not over.is_set():
            await asyncio.sleep(rng.uniform(*PAUSE_S))
            await asker.ask(number)
            number += 1

    async def one(client: Client, asker: Asker) -> None:
        await client.wait_for_instances(options.instances)
        await asyncio.gather(*(loop_of(asker) for _ in range(STEADY_REQUESTS)))

    await _with_clients(options.clients, one)


async def _with_clients(count: int, work: Callable[[Client, Asker], Awaitable[None]]) -> None:
    seen = Seen()
    async with AsyncExitStack() as stack:
        runtimes = [await stack.enter_async_context(DistributedRuntime()) for _ in range(count)]
        clients = [await runtime.endpoint(ENDPOINT).client() for runtime in runtimes]
        for client in clients:
            stack.push_async_callback(client.close)
        print("following", flush=True)
        await asyncio.gather(*(work(client, Asker(client, seen)) for client in clients))
        called = [called for runtime in runtimes for called in runtime.called().values()]
        seen.num_passed_over = sum(sum(one.quarantined.values()) for one in called)
        print(RESULT + msgspec.json.encode(seen).decode(), flush=True)


def _on_sigterm(call: Callable[[], None]) -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, call)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.system.herd")
    parser.add_argument("role", choices=["serve", "burst", "steady"])
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--instances", type=int, default=1, help="that a client waits for")
    parser.add_argument("--requests", type=int, default=20, help="of each client")
    parser.add_argument("--at-a-time", type=int, default=20)
    parser.add_argument("--limit", type=int, help="requests that a worker takes at a time")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    set_up_logging(os.environ)
    asyncio.run({"serve": serve, "burst": burst, "steady": steady}[options.role](options))


if __name__ == "__main__":
    main(sys.argv[1:])

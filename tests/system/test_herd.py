"""Fifty clients that come back to a worker at the same time, and clients that nobody can serve."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import msgspec
import pytest
from tests.system.cluster import Worker, metric
from tests.system.herd import PASSED_OVER, RESULT, STEADY_REQUESTS, TAKEN_BACK, Seen
from tests.system.programs import DEADLINE_S, POLL_S, Program, environment_of, until

#: 50 clients, ten in each process.
NUM_PROCESSES = 5
CLIENTS_PER_PROCESS = 10
NUM_CLIENTS = NUM_PROCESSES * CLIENTS_PER_PROCESS


class Herd:
    """Clients and workers of one endpoint, that find each other in a directory of their own."""

    def __init__(self, directory: Path, client: httpx.AsyncClient, stack: AsyncExitStack) -> None:
        self._environment = environment_of(f"file://{directory}", DYN_REQUEST_PLANE="tcp://127.0.0.1:0?local=0")
        self.client = client
        self._stack = stack

    async def start_worker(self, *options: str) -> Worker:
        environment = self._environment | {"DYN_SYSTEM_PORT": "0"}
        worker = await Worker.start("tests.system.herd", "serve", *options, environment=environment)
        self._stack.push_async_callback(worker.close)
        worker.url = (await worker.line(r"system server at (http://\S+)"))[1]
        await worker.line("^serving")
        return worker

    async def start_clients(self, role: str, *options: str, processes: int = NUM_PROCESSES) -> list[Program]:
        """Start the clients; return when all of them follow who is alive."""
        started = []
        for seed in range(processes):
            arguments = ("tests.system.herd", role, "--seed", str(seed), *options)
            started.append(await Program.start(*arguments, environment=self._environment | {"DYN_LOG": "error"}))
            self._stack.push_async_callback(started[-1].close)
        await asyncio.gather(*(program.line("^following") for program in started))
        return started

    async def has_more(self, worker: Worker, count: int) -> None:
        """Wait until a worker was asked so many times more."""
        enough = await worker.num_requests(self.client) + count
        async with asyncio.timeout(DEADLINE_S):
            while await worker.num_requests(self.client) < enough:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(POLL_S)


@pytest.fixture
async def herd(tmp_path: Path) -> AsyncIterator[Herd]:
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(httpx.AsyncClient(trust_env=False))
        yield Herd(tmp_path, client, stack)


async def all_have_said(programs: Sequence[Program], word: str) -> None:
    """Wait until every client has said this."""
    await until(lambda: all(program.lines.count(word) >= CLIENTS_PER_PROCESS for program in programs))


async def seen_by(programs: Sequence[Program]) -> list[Seen]:
    """What the clients of each process saw: they tell it at their end."""
    told = [await program.line(f"^{RESULT}(.*)$") for program in programs]
    return [msgspec.json.decode(match[1], type=Seen) for match in told]


async def test_a_thousand_requests_of_fifty_clients_meet_the_only_worker_when_it_returns(herd: Herd) -> None:
    lost = await herd.start_worker()
    await lost.kill()
    clients = await herd.start_clients("burst", "--clients", str(CLIENTS_PER_PROCESS), "--requests", "20")
    worker = await herd.start_worker()
    seen = await seen_by(clients)
    assert [one.num_right for one in seen] == [200] * NUM_PROCESSES
    assert [one.num_passed_over for one in seen] == [0] * NUM_PROCESSES
    assert await worker.num_requests(herd.client) == 1000, "nothing was asked twice"
    opened = await metric(herd.client, worker.url, "dynamo_transport_tcp_connections_opened_total")
    assert opened == NUM_CLIENTS, "one connection for each client"


async def test_fifty_clients_try_a_worker_that_wakes_up_with_one_request_each_and_then_keep_it(herd: Herd) -> None:
    well, frozen = [await herd.start_worker() for _ in range(2)]
    clients = await herd.start_clients("steady", "--clients", str(CLIENTS_PER_PROCESS), "--instances", "2")
    for worker in (well, frozen):
        await herd.has_more(worker, 300)
    await frozen.freeze()
    await all_have_said(clients, PASSED_OVER)
    await herd.has_more(well, 200)  # and some more ask the frozen one, in vain
    assert frozen.state() == "T"
    await frozen.thaw()
    await all_have_said(clients, TAKEN_BACK)
    await herd.has_more(frozen, 300)
    for program in clients:
        program.terminate()
    seen = await seen_by(clients)
    assert sum(one.num_passed_over for one in seen) == NUM_CLIENTS, "each has passed over the frozen one, and once"
    assert max(one.num_probes_max for one in seen) == 1
    # What ran on the frozen one when it fell silent cannot be sent again by callers without migration.
    assert {code for one in seen for code in one.errors} == {"stalled"}
    assert sum(one.errors["stalled"] for one in seen) <= NUM_CLIENTS * STEADY_REQUESTS
    assert all(one.num_asked == one.num_right + sum(one.errors.values()) for one in seen)


async def test_clients_whom_everybody_refuses_make_no_more_than_a_tenth_of_requests_more(herd: Herd) -> None:
    workers = [await herd.start_worker("--limit", "1") for _ in range(3)]
    options = ("--clients", "2", "--instances", "3", "--requests", "2000", "--at-a-time", "100")
    [seen] = await seen_by(await herd.start_clients("burst", *options, processes=1))
    assert seen.num_asked == 4000
    assert set(seen.errors) == {"overloaded"}
    assert seen.errors["overloaded"] > seen.num_asked / 2, "it is an overload"
    came = sum([await worker.num_requests(herd.client) for worker in workers])
    assert seen.num_asked < came <= 1.1 * seen.num_asked
    assert seen.num_passed_over == 0, "who is overloaded is not at fault"

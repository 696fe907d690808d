"""Losing NATS loses no request: events are hints, and those who listen are told how many they have missed."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from tests.nats_server import NatsServer, nats_server
from tests.system.programs import DEADLINE_S, Program, environment_of, running, until

from dynamo.runtime import Client, DistributedRuntime, Event, Gap, Subscription

NUM_WORKERS = 2


class Asking:
    """Clients that ask all the time; an answer that is wrong or missing ends them."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._numbers = itertools.count(1)
        self.num_answers = 0
        self._has_news = asyncio.Event()

    async def ask(self) -> None:
        while True:
            number = next(self._numbers)
            answers = [answer async for answer in await self._client.round_robin(number, annotated=False)]
            assert answers == [2 * number]
            self.num_answers += 1
            self._has_news.set()
            await asyncio.sleep(0.002)

    async def more(self, count: int) -> None:
        """Wait for so many answers more."""
        enough = self.num_answers + count
        async with asyncio.timeout(DEADLINE_S):
            while self.num_answers < enough:
                self._has_news.clear()
                await self._has_news.wait()


@asynccontextmanager
async def asked(client: Client) -> AsyncIterator[Asking]:
    """Four clients at work. One request that fails fails the test."""
    asking = Asking(client)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(asking.ask()) for _ in range(4)]
        await asking.more(20)
        yield asking
        await asking.more(20)
        for task in tasks:
            task.cancel()


class Hearing:
    """Reads what workers tell, and counts what is heard and what is missed of each."""

    def __init__(self, subscription: Subscription[object]) -> None:
        self._subscription = subscription
        self.last: dict[int, int] = {}
        self.num_missed: dict[int, int] = {}

    async def from_all(self) -> None:
        """Read until there is an event of each worker."""
        heard: set[int] = set()
        async with asyncio.timeout(DEADLINE_S):
            while len(heard) < NUM_WORKERS:
                item = await anext(self._subscription)
                if isinstance(item, Gap):
                    assert item.missed is not None
                    self.num_missed[item.publisher_id] = self.num_missed.get(item.publisher_id, 0) + item.missed
                    self.last[item.publisher_id] += item.missed
                else:
                    assert isinstance(item, Event)
                    before = self.last.get(item.publisher_id, item.sequence - 1)
                    assert item.sequence == before + 1
                    self.last[item.publisher_id] = item.sequence
                    heard.add(item.publisher_id)


@asynccontextmanager
async def workers(server: NatsServer, directory: Path) -> AsyncIterator[list[Program]]:
    environment = environment_of(f"file://{directory}", NATS_SERVER=server.url)
    async with AsyncExitStack() as stack:
        made = [
            await stack.enter_async_context(running("tests.system.telling_worker", environment=environment))
            for _ in range(NUM_WORKERS)
        ]
        for worker in made:
            await worker.line("serving")
        yield made


@pytest.mark.parametrize("fault", ["killed", "stopped"])
async def test_nats_is_lost_under_load_and_no_request_notices_while_listeners_know_what_they_missed(
    tmp_path: Path, fault: str
) -> None:
    (tmp_path / "discovery").mkdir(mode=0o700)
    async with (
        nats_server(tmp_path / "nats") as server,
        workers(server, tmp_path / "discovery") as programs,
        DistributedRuntime(discovery=f"file://{tmp_path}/discovery", event_plane=server.url) as runtime,
    ):
        hearing = Hearing(await runtime.events.subscribe("nats/asked"))
        client = await runtime.endpoint("nats.Worker.double").client()
        await client.wait_for_instances(NUM_WORKERS, timeout_s=DEADLINE_S)
        async with asked(client) as asking:
            await hearing.from_all()
            if fault == "killed":
                await server.kill()
                await asking.more(200)
                await server.start()
            else:
                server.stop()
                await until(server.is_stopped)
                await asking.more(200)
                server.go_on()
            await hearing.from_all()
            while fault == "killed" and len(hearing.num_missed) < NUM_WORKERS:
                await hearing.from_all()
        assert [program.ended for program in programs] == [False] * NUM_WORKERS
        await client.close()

"""A cluster that meets on etcd, and clients that ask it without a pause."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import msgspec
from tests.etcd_server import EtcdServer
from tests.system.cluster import Cluster
from tests.system.exact import assert_exact
from tests.system.programs import DEADLINE_S, POLL_S, Program

from dynamo._core.address import INSTANCES

NUM_TOKENS = 40


class SystemHealth(msgspec.Struct):
    """What the system server of a process says."""

    status: str
    degraded: dict[str, str | float] = {}


@asynccontextmanager
async def cluster_on(
    members: list[EtcdServer], directory: Path, model_path: Path, *, workers: int
) -> AsyncIterator[Cluster]:
    """A frontend and workers that find each other on an etcd."""
    async with Cluster(directory, model_path) as made:
        made.discovery = "etcd://" + ",".join(f"127.0.0.1:{member.port}" for member in members)
        async with asyncio.TaskGroup() as starting:
            starting.create_task(made.start_frontend(DYN_SYSTEM_PORT="0"))
            starting.create_task(made.add_workers(workers))
        await made.routable(workers)
        yield made


class Load:
    """Clients that ask, read the answer to its end, check it, and ask again."""

    def __init__(self, made: Cluster) -> None:
        self._made = made
        self._numbers = itertools.count()
        self._has_news = asyncio.Event()
        #: How many answers were complete and exactly what they had to be.
        self.num_exact = 0

    async def more(self, count: int) -> None:
        """Wait for so many answers more."""
        enough = self.num_exact + count
        async with asyncio.timeout(DEADLINE_S):
            while self.num_exact < enough:
                self._has_news.clear()
                await self._has_news.wait()

    async def ask(self) -> None:
        while True:
            prompt = f"question {next(self._numbers)}"
            assert_exact(await self._made.ask(prompt, NUM_TOKENS), prompt, NUM_TOKENS)
            self.num_exact += 1
            self._has_news.set()


@asynccontextmanager
async def loaded(made: Cluster, *, clients: int = 4) -> AsyncIterator[Load]:
    """Ask all the time. One answer that is not exact fails the test."""
    load = Load(made)
    asking = [asyncio.create_task(load.ask()) for _ in range(clients)]
    failing = asyncio.gather(*asking)
    try:
        await load.more(clients)
        yield load
        await load.more(clients)
        assert not failing.done()
    finally:
        for task in asking:
            task.cancel()
        outcomes = await asyncio.gather(*asking, return_exceptions=True)
        failing.cancel()
        await asyncio.gather(failing, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome


async def system_urls(made: Cluster) -> list[str]:
    """Where the frontend and every worker tell of themselves."""
    frontend = (await made.frontend.line(r"system server at (http://\S+)"))[1]
    return [frontend, *(worker.url for worker in made.workers)]


async def all_say(made: Cluster, status: str) -> list[SystemHealth]:
    """Wait until the system server of each process says `status`, with HTTP status 200."""
    urls = await system_urls(made)
    until = asyncio.get_running_loop().time() + DEADLINE_S
    async with httpx.AsyncClient(trust_env=False) as client:
        while True:
            answers = [await client.get(f"{url}/health") for url in urls]
            assert [answer.status_code for answer in answers] == [200] * len(urls)
            said = [msgspec.json.decode(answer.content, type=SystemHealth) for answer in answers]
            if all(one.status == status for one in said):
                return said
            assert asyncio.get_running_loop().time() < until, f"not all say {status!r}: {said}"
            await asyncio.sleep(POLL_S)


async def registered(member: EtcdServer) -> set[str]:
    """The keys of the instances that etcd holds."""
    return set((await member.ctl("get", INSTANCES, "--prefix", "--keys-only")).split())


async def registered_again(member: EtcdServer, keys: set[str]) -> None:
    """Wait until etcd holds exactly these instances."""
    async with asyncio.timeout(DEADLINE_S):
        while await registered(member) != keys:  # noqa: ASYNC110 - it is asked, so that nothing of ours is
            await asyncio.sleep(POLL_S)


def assert_all_run(made: Cluster) -> None:
    """Nobody has ended."""
    programs: list[Program] = [made.frontend, *made.workers]
    assert [program.process.returncode for program in programs] == [None] * len(programs)

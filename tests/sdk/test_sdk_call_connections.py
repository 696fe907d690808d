"""Many calls through one proxy, over real sockets."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator

import pytest

from dynamo._core.discovery.memory import MemoryDiscovery
from dynamo.runtime import DistributedRuntime
from dynamo.sdk import dynamo_endpoint, service, service_of
from dynamo.sdk._proxy import ServiceProxy
from dynamo.sdk._runner import ServiceRunner

DEADLINE_S = 60.0
CALLS = 1000

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="open files are counted in /proc")


def open_files() -> dict[str, int]:
    """The open files of this process by kind: both ends of every connection are in it."""
    kinds: dict[str, int] = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            kind = os.readlink(f"/proc/self/fd/{name}").partition(":")[0]
        except FileNotFoundError:  # that of the listing itself
            continue
        kinds[kind] = kinds.get(kind, 0) + 1
    return kinds


@service
class Meeting:
    """Answers when everybody is there."""

    def __init__(self) -> None:
        self.waiting = 0
        self.everybody = asyncio.Event()

    async def meet(self, count: int) -> dict[str, int]:
        self.waiting += 1
        if self.waiting == count:
            self.everybody.set()
        await asyncio.wait_for(self.everybody.wait(), DEADLINE_S)
        return open_files()

    @dynamo_endpoint()
    async def hello(self, request: str) -> str:
        return request

    @dynamo_endpoint()
    async def unary(self, request: int) -> dict[str, int]:
        return await self.meet(request)

    @dynamo_endpoint()
    async def stream(self, request: int) -> AsyncIterator[dict[str, int]]:
        yield await self.meet(request)
        yield open_files()


@pytest.mark.parametrize("endpoint", ["unary", "stream"])
async def test_a_thousand_calls_at_a_time_open_no_file(endpoint: str) -> None:
    discovery = MemoryDiscovery()
    async with (
        DistributedRuntime(discovery=discovery, request_plane="tcp:") as serving,
        DistributedRuntime(discovery=discovery, request_plane="tcp:") as calling,
    ):
        runner = ServiceRunner(service_of(Meeting), serving)
        await runner.start()
        proxy = ServiceProxy(service_of(Meeting), calling)
        await ServiceProxy.connect(proxy)
        assert await proxy.hello("hello") == "hello"  # the connection is there

        before = open_files()
        call = getattr(proxy, endpoint)
        seen = await asyncio.gather(*(call(CALLS) for _ in range(CALLS)))

        assert open_files() == before
        assert all(during == before for during in seen)
        await ServiceProxy.close(proxy)
        await runner.stop()

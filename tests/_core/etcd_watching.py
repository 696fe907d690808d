"""What tests of discovery on etcd share: readers that do not wait for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

from dynamo._core.discovery import Change, Synced
from dynamo._core.discovery.etcd import EtcdDiscovery

DEADLINE_S = 60.0


@asynccontextmanager
async def watching(discovery: EtcdDiscovery, prefix: str = "a/") -> AsyncIterator[AsyncGenerator[Change, None]]:
    """A watch that has said what there was."""
    async with aclosing(discovery.watch(prefix)) as changes:
        while not isinstance(await next_change(changes), Synced):
            pass
        yield changes


async def next_change(changes: AsyncGenerator[Change, None]) -> Change:
    async with asyncio.timeout(DEADLINE_S):
        return await anext(changes)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that discovery tells nobody."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def degraded(*discoveries: EtcdDiscovery) -> None:
    """Return when all of them know that etcd is away."""
    await until(lambda: all(discovery.status.is_degraded for discovery in discoveries))


async def well(*discoveries: EtcdDiscovery) -> None:
    """Return when none of them misses anything."""
    await until(lambda: not any(discovery.status.is_degraded for discovery in discoveries))

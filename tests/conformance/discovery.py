"""What the suites of discovery share: two parties of each kind, and how to read a watch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from tests.etcd_server import running_etcd

from dynamo._core.discovery import Change, Delete, Discovery, Put, Synced
from dynamo._core.discovery.etcd import EtcdDiscovery
from dynamo._core.discovery.file import FileDiscovery
from dynamo._core.discovery.memory import MemoryDiscovery

DEADLINE_S = 60.0
KINDS = ["memory", "file", "file without inotify", "etcd"]


def open_two(kind: str, directory: Path, etcd_url: str) -> tuple[Discovery, Discovery]:
    """Return two parties that should see each other."""
    if kind == "memory":
        shared = MemoryDiscovery()
        return shared, shared
    if kind == "etcd":
        root = f"{directory}/"  # one etcd for all tests, and in it a place for each
        return EtcdDiscovery([etcd_url], root=root), EtcdDiscovery([etcd_url], root=root)
    use_inotify = kind == "file"
    return FileDiscovery(directory, use_inotify=use_inotify), FileDiscovery(directory, use_inotify=use_inotify)


@pytest.fixture(scope="module")
def etcd_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_etcd(tmp_path_factory.mktemp("etcd") / "data") as url:
        yield url


@pytest_asyncio.fixture(params=KINDS)
async def two(
    request: pytest.FixtureRequest, tmp_path: Path, etcd_url: str
) -> AsyncIterator[tuple[Discovery, Discovery]]:
    first, second = open_two(request.param, tmp_path / "discovery", etcd_url)
    yield first, second
    await first.close()
    await second.close()


@pytest.fixture
def discovery(two: tuple[Discovery, Discovery]) -> Discovery:
    return two[0]


async def take(changes: AsyncGenerator[Change, None], count: int) -> list[Change]:
    """Read so many changes; each must arrive in time."""
    async with asyncio.timeout(DEADLINE_S):
        return [await anext(changes) for _ in range(count)]


@asynccontextmanager
async def synced(discovery: Discovery, prefix: str = "") -> AsyncIterator[AsyncGenerator[Change, None]]:
    """A watch that has said what there was."""
    async with aclosing(discovery.watch(prefix)) as changes:
        while not isinstance((await take(changes, 1))[0], Synced):
            pass
        yield changes


async def read_until(
    changes: AsyncGenerator[Change, None], known: dict[str, bytes], expected: dict[str, bytes]
) -> None:
    """Apply changes to what is known until it is what is expected."""
    async with asyncio.timeout(DEADLINE_S):
        while known != expected:
            change = await anext(changes)
            if isinstance(change, Put):
                known[change.key] = change.value
            elif isinstance(change, Delete):
                del known[change.key]

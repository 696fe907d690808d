"""A real etcd, and those who find each other through it: fixtures of tests that make it fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from tests._core.etcd_watching import DEADLINE_S, degraded
from tests.etcd_server import EtcdServer, etcd
from tests.system.fault_proxy import FaultProxy, fault_proxy

from dynamo._core.discovery.etcd import EtcdDiscovery

#: Longer than from one renewal of a lease of 3 s to the next.
HOLD_S = 2.5


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[EtcdServer]:
    async with etcd(tmp_path / "etcd") as server:
        yield server


@pytest_asyncio.fixture
async def discovery(server: EtcdServer) -> AsyncIterator[EtcdDiscovery]:
    discovery = EtcdDiscovery([server.url], hold_s=HOLD_S)
    yield discovery
    await discovery.close()


@pytest_asyncio.fixture
async def other(server: EtcdServer) -> AsyncIterator[EtcdDiscovery]:
    discovery = EtcdDiscovery([server.url], hold_s=HOLD_S)
    yield discovery
    await discovery.close()


@pytest_asyncio.fixture
async def proxy(server: EtcdServer) -> AsyncIterator[FaultProxy]:
    async with fault_proxy(server.port) as proxy:
        yield proxy


@pytest_asyncio.fixture
async def distant(proxy: FaultProxy) -> AsyncIterator[EtcdDiscovery]:
    """One that reaches etcd over a network that can be cut."""
    discovery = EtcdDiscovery([f"http://127.0.0.1:{proxy.port}"], hold_s=HOLD_S)
    yield discovery
    await discovery.close()


async def cut(proxy: FaultProxy, discovery: EtcdDiscovery) -> None:
    """Cut the network; return when that is noticed."""
    proxy.refuses = True
    assert proxy.reset() > 0
    await degraded(discovery)


async def num_leases(server: EtcdServer, count: int) -> None:
    """Wait until etcd has so many leases."""
    async with asyncio.timeout(DEADLINE_S):
        while f"found {count} leases" not in await server.ctl("lease", "list"):
            pass


async def num_keys(server: EtcdServer, count: int) -> None:
    """Wait until etcd has so many keys."""
    async with asyncio.timeout(DEADLINE_S):
        while (await server.ctl("get", "--prefix", "a/", "--keys-only")).count("a/") != count:
            pass


async def restart(server: EtcdServer) -> None:
    await server.start()
    await server.ready()

"""Registers many instances of one endpoint, and goes on replacing the oldest by a new one.

The ids of the instances count upwards, so that whoever follows them can tell how many changes there were.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import resource
from collections import deque

import msgspec
import uvloop

from benchmarks.rpc_items import ENDPOINT
from dynamo._core.address import EndpointId
from dynamo._core.discovery import Discovery, Lease, open_discovery

#: Between a leave and the next join.
PAUSE_S = 0.01


class Members:
    """The instances that there are, the oldest first."""

    def __init__(self, discovery: Discovery, *, lease_each: bool) -> None:
        self._discovery = discovery
        self._lease_each = lease_each
        self._endpoint = EndpointId.parse(ENDPOINT)
        self._ids = itertools.count(1)
        self._present: deque[tuple[int, Lease]] = deque()

    async def join(self) -> None:
        id = next(self._ids)
        namespace, component, endpoint = str(self._endpoint).split("/")
        record = {
            "type": "Endpoint",
            "namespace": namespace,
            "component": component,
            "endpoint": endpoint,
            "instance_id": id,
            "transport": {"tcp": f"127.0.0.1:{10_000 + id % 50_000}/{id:x}/{self._endpoint}"},
        }
        is_first = not self._present
        lease = await self._discovery.grant() if self._lease_each or is_first else self._present[0][1]
        self._present.append((id, lease))
        await self._discovery.put(self._endpoint.instance_key(id), msgspec.json.encode(record), lease)

    async def leave(self) -> None:
        id, lease = self._present.popleft()
        if self._lease_each:
            await lease.close()
        else:
            await self._discovery.delete(self._endpoint.instance_key(id))


async def main(count: int) -> None:
    url = os.environ["DYN_DISCOVERY"]
    # Among files a process has a lock for each of its leases, and a file holds the keys of one lease.
    members = Members(open_discovery(url), lease_each=url.startswith("file:"))
    for _ in range(count):
        await members.join()
    while True:
        await members.leave()
        await asyncio.sleep(PAUSE_S)
        await members.join()
        await asyncio.sleep(PAUSE_S)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, required=True)
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    uvloop.install()
    asyncio.run(main(parser.parse_args().count))

"""A process that takes one job, says so, and waits for ever: `EmbeddedWorkQueue` with a discovery in a directory."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from dynamo._core.discovery.file import FileDiscovery
from dynamo._core.request_plane.tcp import TcpPlane
from dynamo._core.work_queue.embedded import EmbeddedWorkQueue


async def main(directory: str) -> None:
    queue = EmbeddedWorkQueue("prefill", TcpPlane(), FileDiscovery(Path(directory)))
    job = await queue.dequeue(30)
    assert job is not None
    print(job.payload.decode(), flush=True)
    await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:]))

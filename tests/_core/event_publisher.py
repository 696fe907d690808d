"""A process that publishes on "kv" until it is killed: `RUN` in every payload."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from dynamo._core.discovery.file import FileDiscovery
from dynamo._core.event_plane import open_event_plane


async def main(url: str, directory: str, run: str) -> None:
    plane = await open_event_plane(url, FileDiscovery(Path(directory)))
    while True:
        await plane.publish("kv", run.encode())
        await asyncio.sleep(0.01)


asyncio.run(main(*sys.argv[1:]))

"""A process that listens to events and prints what it hears: `e PAYLOAD_BYTES` or `g MISSED`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from dynamo._core.discovery.file import FileDiscovery
from dynamo._core.event_plane import Event, open_event_plane


async def main(url: str, directory: str) -> None:
    plane = await open_event_plane(url, FileDiscovery(Path(directory)))
    async for item in plane.subscribe("kv"):
        print(f"e {len(item.payload)}" if isinstance(item, Event) else f"g {item.missed}", flush=True)


asyncio.run(main(*sys.argv[1:]))

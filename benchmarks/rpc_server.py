"""The worker of the rpc benchmark; runs unchanged under either system.

A request says how many items it wants, and whether the handler gives the loop a turn between items. A
handler that never awaits shows the best case of coalescing, the other one what a real engine does.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.rpc_items import ENDPOINT, TEXT
from dynamo.runtime import DistributedRuntime, dynamo_worker


async def handler(request: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    pauses = request["pauses"]
    for index in range(request["items"]):
        yield {"index": index, "text": TEXT}
        if pauses:
            await asyncio.sleep(0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--serving-file", type=Path, help="write the time to FILE just before serving")
    options = parser.parse_args()

    @dynamo_worker()
    async def main(runtime: DistributedRuntime) -> None:
        if options.serving_file:
            options.serving_file.write_text(str(time.monotonic()))
        await runtime.endpoint(ENDPOINT).serve_endpoint(handler)

    uvloop.install()
    asyncio.run(main())

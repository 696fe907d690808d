"""A process that counts, and for each line that it is given says what its `/metrics` does, ended by a line of its own.

`python counting_process.py NUMBER`: it adds the number to a counter, sets gauges to it, and observes it.
"""

from __future__ import annotations

import asyncio
import os
import sys

from prometheus_client import Gauge as OtherGauge

from dynamo.metrics import counter, gauge, histogram, scope
from dynamo.runtime import DistributedRuntime

END = "# END"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


def count(number: int) -> None:
    counter("sold", "Fruit that was sold", ("kind",)).labels("red").inc(number)
    with scope(namespace="shop", model="llama"):
        counter("asked", "Requests").inc(number)
    gauge("waiting", "Requests that wait").set(number)
    for across in ("sum", "min", "max"):
        gauge(f"waiting_{across}", "Requests that wait", across_processes=across).set(number)
    gauge("jobs", "Jobs that wait", function=lambda: number)
    histogram("took_seconds", "How long it took", buckets=(1, 10)).observe(number)
    OtherGauge("others", "Of another library in the same files", registry=None).set(number)
    counter(f"only_{number}", "What the others do not have").inc()


async def main() -> None:
    count(int(sys.argv[1]))
    async with DistributedRuntime(discovery="memory:", request_plane="inproc:", event_plane="inproc:") as runtime:
        runtime.metrics.add_text(lambda: f"engine {sys.argv[1]}\n")
        expose = runtime.exposition.prepare()
        print(os.getpid(), flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            print(expose(OPENMETRICS)[0].decode(), END, sep="", flush=True)


if __name__ == "__main__":
    asyncio.run(main())

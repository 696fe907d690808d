"""follow: what it costs a client to follow 1,000 instances of one endpoint that join and leave.

One process has the instances and replaces the oldest by a new one, again and again; another follows them and does
nothing else. Measured through discovery in files, and on a real etcd if one is installed. The memory is what the
process has more with the instances than without them.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.children import BenchmarkFailed, stage
from benchmarks.report import Column, Measurement, Results
from benchmarks.systems import System

NUM_INSTANCES = 1000
COLUMNS = (
    Column("cpu_ms_per_change", "CPU ms/change"),
    Column("memory_mb", "memory MB"),
    Column("memory_end_mb", "after the window"),
    Column("changes_per_s", "changes/s"),
)
RATIO_HEADING = ""
_DEADLINE_S = 150.0
_ETCD_START_S = 20.0


@dataclass(frozen=True)
class OnEtcd(System):
    """A system whose processes meet on an etcd."""

    etcd_url: str = ""

    def _planes(self, meeting_place: Path) -> dict[str, str]:
        return super()._planes(meeting_place) | {"DYN_DISCOVERY": self.etcd_url}


async def measure(systems: Sequence[System], options: argparse.Namespace, say: Callable[[str], None]) -> Results:
    """Measure each discovery in turn, `options.runs` times."""
    system, results = systems[0], Results()
    if shutil.which("etcd") is None:
        say("etcd is not installed: files only")
    for run in range(options.runs):
        say(f"run {run + 1} of {options.runs}: {NUM_INSTANCES} instances, {options.window_s:g} s")
        results.measurements.append(await _run(system, run, "file", options.window_s))
        if shutil.which("etcd") is not None:
            async with _etcd() as url:
                on_etcd = OnEtcd(system.name, system.python, system.version, url)
                results.measurements.append(await _run(on_etcd, run, "etcd", options.window_s))
    return results


async def _run(system: System, run: int, workload: str, window_s: float) -> Measurement:
    count = str(NUM_INSTANCES)
    async with stage(system) as processes:
        await processes.start("benchmarks.follow_members", "--count", count)
        figures: dict[str, float] = await processes.measure(
            "benchmarks.follow_client", "--count", count, "--window-s", str(window_s), deadline_s=_DEADLINE_S + window_s
        )
    return Measurement(system.name, run, workload, NUM_INSTANCES, figures)


@asynccontextmanager
async def _etcd() -> AsyncIterator[str]:
    """An etcd of its own, on loopback; gives its URL."""
    port, peer_port = _free_port(), _free_port()
    client, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer_port}"
    with tempfile.TemporaryDirectory(prefix="dynamo-bench-etcd-") as directory:
        process = await asyncio.create_subprocess_exec(
            "etcd", "--data-dir", directory, "--log-level", "error", "--initial-cluster", f"default={peer}",
            "--listen-client-urls", client, "--advertise-client-urls", client,
            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            await _listens(port)
            yield f"etcd://127.0.0.1:{port}"
        finally:
            process.kill()
            await process.wait()


async def _listens(port: int) -> None:
    """Wait for a server to take connections; it tells nobody."""
    for _ in range(int(_ETCD_START_S / 0.1)):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.1)
        else:
            writer.close()
            return
    raise BenchmarkFailed(f"etcd does not listen after {_ETCD_START_S:g} s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

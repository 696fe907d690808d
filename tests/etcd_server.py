"""A real etcd for tests: started, killed, stopped, wiped and started again."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import ssl
import subprocess
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from tests.free_port import free_port

DEADLINE_S = 60.0


class EtcdServer:
    """One member of an etcd, on loopback; with `tls` it asks its clients for TLS, and this is how we ask it."""

    def __init__(
        self, directory: Path, name: str = "one", extra: Sequence[str] = (), tls: ssl.SSLContext | None = None
    ) -> None:
        self.directory = directory
        self.tls = tls
        self.name = name
        self.port, self.peer_port = free_port(), free_port()
        self._extra = list(extra)
        self._process: Process | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def peer_url(self) -> str:
        return f"http://127.0.0.1:{self.peer_port}"

    def command(self, cluster: str = "") -> list[str]:
        """What starts it."""
        command = [etcd_binary(), "--name", self.name, "--data-dir", str(self.directory)]
        command += ["--listen-client-urls", self.url, "--advertise-client-urls", self.url]
        command += ["--listen-peer-urls", self.peer_url, "--initial-advertise-peer-urls", self.peer_url]
        command += ["--initial-cluster", cluster or f"{self.name}={self.peer_url}", "--log-level", "error"]
        return [*command, *self._extra]

    async def start(self, cluster: str = "") -> None:
        """Start it, again if need be."""
        self._process = await asyncio.create_subprocess_exec(*self.command(cluster), stdout=DEVNULL, stderr=DEVNULL)

    async def ready(self) -> None:
        """Wait until it has a leader."""
        async with asyncio.timeout(DEADLINE_S):
            while not await self._answers():  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.05)

    async def kill(self) -> None:
        """Kill it, as if its host had lost power."""
        assert self._process is not None
        self.go_on()
        self._process.kill()
        await self._process.wait()

    async def wipe(self) -> None:
        """Kill it, and lose its data."""
        await self.kill()
        shutil.rmtree(self.directory)

    async def stop(self) -> None:
        """Freeze it: connections stay, nothing is answered. Return when it is frozen."""
        self._signal(signal.SIGSTOP)
        async with asyncio.timeout(DEADLINE_S):
            while self._state() != "T":  # noqa: ASYNC110 - the kernel tells nobody
                await asyncio.sleep(0.01)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    async def ctl(self, *arguments: str) -> str:
        """Run etcdctl on it."""
        process = await asyncio.create_subprocess_exec(
            "etcdctl", "--endpoints", self.url, *arguments, env={**os.environ, "ETCDCTL_API": "3"}, stdout=-1, stderr=-1
        )
        out, err = await asyncio.wait_for(process.communicate(), DEADLINE_S)
        assert process.returncode == 0, err.decode()
        return out.decode()

    async def close(self) -> None:
        if self._process is not None and self._process.returncode is None:
            await self.kill()

    async def _answers(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=self.tls)
        except OSError:
            return False
        writer.write(b"GET /health HTTP/1.0\r\n\r\n")
        answer = await reader.read()
        writer.close()
        return b'"health":"true"' in answer

    def _state(self) -> str:
        assert self._process is not None
        return Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()[0]

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)


@asynccontextmanager
async def etcd(directory: Path, *extra: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[EtcdServer]:
    """One etcd that answers."""
    server = EtcdServer(directory, extra=extra, tls=tls)
    try:
        await server.start()
        await server.ready()
        yield server
    finally:
        await server.close()


@asynccontextmanager
async def etcd_cluster(directory: Path, count: int = 3) -> AsyncIterator[list[EtcdServer]]:
    """Several members of one etcd."""
    servers = [EtcdServer(directory / f"m{number}", f"m{number}") for number in range(count)]
    cluster = ",".join(f"{server.name}={server.peer_url}" for server in servers)
    try:
        for server in servers:
            await server.start(cluster)
        for server in servers:
            await server.ready()
        yield servers
    finally:
        for server in servers:
            await server.close()


@contextmanager
def running_etcd(directory: Path) -> Iterator[str]:
    """One etcd that outlives event loops; gives its URL."""
    server = EtcdServer(directory)
    process = subprocess.Popen(server.command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        asyncio.run(server.ready())
        yield server.url
    finally:
        process.kill()
        process.wait()


def etcd_binary() -> str:
    """The etcd of this machine; without one a test is skipped, but not where all are meant to run."""
    found = shutil.which("etcd")
    if found is None:
        complain = pytest.fail if os.environ.get("CI") else pytest.skip
        complain("etcd is not installed; on Debian: apt-get install etcd-server etcd-client")
    return found

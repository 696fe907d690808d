"""A real NATS for tests: started, killed, stopped, and started again."""

from __future__ import annotations

import asyncio
import shutil
import signal
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.free_port import free_port

DEADLINE_S = 60.0


class NatsServer:
    """One NATS on loopback, with JetStream unless it is not wanted."""

    def __init__(self, directory: Path, extra: Sequence[str] = (), *, jetstream: bool = True) -> None:
        self.port = free_port()
        self._extra = [*extra, *(["-js", "-sd", str(directory)] if jetstream else [])]
        self._process: Process | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start it; return when it answers."""
        command = [nats_binary(), "-a", "127.0.0.1", "-p", str(self.port)]
        self._process = await asyncio.create_subprocess_exec(*command, *self._extra, stdout=DEVNULL, stderr=DEVNULL)
        async with asyncio.timeout(DEADLINE_S):
            while not await self._answers():  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.02)

    async def kill(self) -> None:
        """Kill it, as if its host had lost power."""
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    def stop(self) -> None:
        """Freeze it: connections stay, nothing is answered."""
        self._signal(signal.SIGSTOP)

    async def until_stopped(self) -> None:
        """Wait until the kernel has frozen it, which takes a moment: until then a thread of it may answer."""
        async with asyncio.timeout(DEADLINE_S):
            while not self.is_stopped():  # noqa: ASYNC110 - the kernel tells parents only
                await asyncio.sleep(0.001)

    def is_stopped(self) -> bool:
        """Whether the kernel has frozen it, and each thread of it."""
        assert self._process is not None
        threads = Path(f"/proc/{self._process.pid}/task").iterdir()
        return all((one / "stat").read_text().rpartition(")")[2].split()[0] == "T" for one in threads)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    async def close(self) -> None:
        if self._process is not None and self._process.returncode is None:
            await self.kill()

    async def _answers(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        line = await reader.readline()
        writer.close()
        return line.startswith(b"INFO")

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)


@asynccontextmanager
async def nats_server(directory: Path, *extra: str, jetstream: bool = True) -> AsyncIterator[NatsServer]:
    """One NATS that answers."""
    server = NatsServer(directory, extra, jetstream=jetstream)
    try:
        await server.start()
        yield server
    finally:
        await server.close()


def nats_binary() -> str:
    found = shutil.which("nats-server")
    assert found is not None, "nats-server is not installed; on Debian: apt-get install nats-server"
    return found

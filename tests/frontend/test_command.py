"""The command and the workers, as processes of their own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from tests.frontend.scene import CHAT

from dynamo.frontend._server import open_listener

START_S = 90.0
RSS_KB_MAX = 120 * 1024


class Process:
    """A process whose lines can be waited for."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []

    async def line(self, words: str) -> str:
        """Return the next line that contains these words."""
        assert self.process.stdout is not None
        async with asyncio.timeout(START_S):
            while raw := await self.process.stdout.readline():
                self.lines.append(raw.decode())
                if words in self.lines[-1]:
                    return self.lines[-1].strip()
        raise AssertionError(f"no line with {words!r} in {self.lines}")

    async def end(self) -> int:
        async with asyncio.timeout(START_S):
            return await self.process.wait()


@asynccontextmanager
async def running(directory: Path, *command: str, **variables: str) -> AsyncIterator[Process]:
    """Run a module with discovery in this directory; kill it at the end."""
    environ = os.environ | {"DYN_DISCOVERY": f"file://{directory}", "PYTHONUNBUFFERED": "1"} | variables
    environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env=environ
    )
    try:
        yield Process(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_without_migration_a_worker_that_is_killed_mid_stream_is_an_error_in_the_stream(
    tmp_path: Path, tiny_model: Path
) -> None:
    async with (
        running(tmp_path, "dynamo.frontend", "--http-port", "0", DYN_MIGRATION_LIMIT="0") as server,
        running(tmp_path, "tests.frontend.slow_worker", str(tiny_model)) as worker,
    ):
        url = (await server.line("listening on ")).rpartition(" ")[2]
        assert (await server.line("ready: ")) == "ready: serving tiny"
        body = CHAT | {"stream": True}
        async with (
            httpx.AsyncClient(base_url=url, timeout=START_S) as client,
            client.stream("POST", "/v1/chat/completions", json=body) as response,
        ):
            assert response.status_code == 200
            lines = [line async for line in _kill_after_first(response, worker)]
        assert '"error"' in lines[-1]
        assert '"code":"disconnected"' in lines[-1]
        assert "[DONE]" not in lines[-1]


async def _kill_after_first(response: httpx.Response, worker: Process) -> AsyncIterator[str]:
    async for line in response.aiter_lines():
        if worker.process.returncode is None:
            worker.process.send_signal(signal.SIGKILL)
            await worker.end()
        if line:
            yield line


async def test_a_signal_drains_what_runs_and_a_second_one_does_not_wait(tmp_path: Path, tiny_model: Path) -> None:
    async with (
        running(tmp_path, "dynamo.frontend", "--http-port", "0") as server,
        running(tmp_path, "tests.frontend.slow_worker", str(tiny_model)),
    ):
        url = (await server.line("listening on ")).rpartition(" ")[2]
        await server.line("ready: ")
        async with httpx.AsyncClient(base_url=url, timeout=START_S) as client:
            body = CHAT | {"stream": True}
            async with client.stream("POST", "/v1/chat/completions", json=body) as response:
                lines = response.aiter_lines()
                await anext(lines)
                server.process.send_signal(signal.SIGTERM)
                await server.line("shutting down")
                assert (await client.get("/health")).json()["status"] == "draining"
                assert server.process.returncode is None
                server.process.send_signal(signal.SIGTERM)
                assert await server.end() == 128 + signal.SIGTERM


def rss_kb(pid: int) -> int:
    """Return the memory that a process holds."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_an_idle_frontend_is_small_and_ends_at_once(tmp_path: Path) -> None:
    async with running(tmp_path, "dynamo.frontend", "--http-port", "0") as server:
        await server.line("listening on ")
        assert rss_kb(server.process.pid) < RSS_KB_MAX
        server.process.send_signal(signal.SIGINT)
        await server.line("shutting down")
        assert await server.end() == 0
        assert [line.split()[0] for line in server.lines] == ["listening", "shutting"], "uvicorn says nothing"


async def test_a_port_in_use_is_one_line_and_exit_1(tmp_path: Path) -> None:
    taken = open_listener("127.0.0.1", 0, insecure=False)
    port = taken.getsockname()[1]
    async with running(tmp_path, "dynamo.frontend", "--http-port", str(port)) as server:
        line = await server.line("error: ")
        assert f"cannot listen on 127.0.0.1:{port}" in line
        assert await server.end() == 1
        assert len(server.lines) == 1
    taken.close()


@pytest.mark.parametrize(
    ("options", "variables", "words"),
    [
        (("--http-port", "many"), {}, "error: --http-port='many' is not a whole number"),
        ((), {"DYN_HTTP_PORT": "-1"}, "error: DYN_HTTP_PORT is -1: it must be from 0 to 65535"),
        ((), {"DYN_LOG": "loud"}, "error: DYN_LOG='loud'"),
    ],
)
async def test_a_wrong_setting_is_one_line_and_exit_2(
    tmp_path: Path, options: tuple[str, ...], variables: dict[str, str], words: str
) -> None:
    async with running(tmp_path, "dynamo.frontend", *options, **variables) as server:
        await server.line(words)
        assert await server.end() == 2
        assert len(server.lines) == 1


async def test_an_address_that_others_reach_needs_a_flag(tmp_path: Path) -> None:
    async with running(tmp_path, "dynamo.frontend", "--http-port", "0", "--http-host", "0.0.0.0") as server:
        assert "--insecure" in await server.line("error: ")
        assert await server.end() == 1

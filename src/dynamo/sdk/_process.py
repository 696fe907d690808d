"""One worker process, as its parent sees it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import BinaryIO

import msgspec

from dynamo.sdk._console import Console
from dynamo.sdk._status import LINE_BYTES_MAX, Failed, Ready, Report, Starting, decode_report

#: How long the output of a worker that has ended may still come: a process that it left behind can hold it open.
OUTPUT_GRACE_S = 1.0
#: How often a start that takes long says what it waits for.
PROGRESS_S = 10.0


class WorkerProcess:
    """Starts one worker, prints its output, and knows what it reported last."""

    def __init__(self, label: str, arguments: list[str], console: Console, on_change: Callable[[], None]) -> None:
        self.label = label
        self._arguments = arguments  # of `dynamo.sdk._worker`
        self._console = console
        self._on_change = on_change  # called when the worker reports something, and when it has ended
        # The mutable state: what it said last, and how far its process is.
        self.report: Report = Starting("starting the process")
        self.ended = asyncio.Event()
        self.exit_status: int | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._wanted_end: signal.Signals | None = None

    async def run(self, working_dir: str, environment: dict[str, str], http: socket.socket | None = None) -> None:
        """Run the worker to its end. What it leaves behind in its process group is killed."""
        ours, theirs = socket.socketpair()
        fds = [theirs.fileno(), *([] if http is None else [http.fileno()])]
        async with AsyncExitStack() as stack:
            stack.callback(self._has_ended)
            stack.callback(self.kill)
            stack.enter_context(ours)
            stack.enter_context(theirs)
            # Pipes of our own: with asyncio's, the end of a process is told only when what it left behind has ended.
            out = await stack.enter_async_context(_pipe())
            err = await stack.enter_async_context(_pipe())
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *self._command(fds),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=out.write_end,
                    stderr=err.write_end,
                    cwd=working_dir,
                    env=environment,
                    pass_fds=fds,
                    process_group=0,
                )
            except OSError as error:
                self.report = Failed(f"its process cannot be started: {error.strerror or error}")
                return
            for end in (out.write_end, err.write_end, theirs):
                end.close()
            self._send_wanted_end()
            await self._follow(self._process, out.reader, err.reader, ours)

    def terminate(self) -> None:
        """Ask the worker to end, as soon as it has a process."""
        self._wanted_end = signal.SIGTERM
        self._send_wanted_end()

    def kill(self) -> None:
        """End the worker and what it has started, at once; not what has left its process group on purpose."""
        self._wanted_end = signal.SIGKILL
        self._send_wanted_end()

    @property
    def is_ready(self) -> bool:
        return isinstance(self.report, Ready) and not self.ended.is_set()

    @property
    def how_it_ended(self) -> str:
        """What to tell about a worker that has ended."""
        if isinstance(self.report, Failed):
            return self.report.reason
        if self.exit_status is not None and self.exit_status < 0:
            return f"it was killed by {signal.Signals(-self.exit_status).name}"
        return f"its process ended with status {self.exit_status}"

    def _command(self, fds: list[int]) -> list[str]:
        # -P: a file of the user's must not stand in for a module that we import.
        command = [sys.executable, "-P", "-u", "-m", "dynamo.sdk._worker", *self._arguments]
        for option, fd in zip(("--status-fd", "--http-fd"), fds, strict=False):
            command += [option, str(fd)]
        return command

    async def _follow(
        self,
        process: asyncio.subprocess.Process,
        out: asyncio.StreamReader,
        err: asyncio.StreamReader,
        ours: socket.socket,
    ) -> None:
        relays = asyncio.gather(
            self._console.relay(out, self.label, self._console.out),
            self._console.relay(err, self.label, self._console.err),
            self._read_reports(ours),
        )
        try:
            self.exit_status = await process.wait()
            self.kill()  # what it has left behind
            self._process = None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(relays), OUTPUT_GRACE_S)
        finally:
            relays.cancel()
            await asyncio.gather(relays, return_exceptions=True)

    def _send_wanted_end(self) -> None:
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            if self._wanted_end is signal.SIGKILL:
                os.killpg(self._process.pid, signal.SIGKILL)
            elif self._wanted_end is not None:
                self._process.send_signal(self._wanted_end)

    def _has_ended(self) -> None:
        self.ended.set()
        self._on_change()

    async def _read_reports(self, ours: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=ours, limit=LINE_BYTES_MAX)
        try:
            while line := await reader.readline():
                try:
                    self.report = decode_report(line)
                except msgspec.MsgspecError as error:
                    self.report = Failed(f"its report cannot be read: {error}")
                self._on_change()
        finally:
            writer.close()


@dataclass(frozen=True, slots=True)
class _Pipe:
    write_end: BinaryIO
    reader: asyncio.StreamReader


@asynccontextmanager
async def _pipe() -> AsyncIterator[_Pipe]:
    """A pipe whose reading end is read by the loop."""
    read_fd, write_fd = os.pipe()
    with os.fdopen(read_fd, "rb", buffering=0) as read_end, os.fdopen(write_fd, "wb", buffering=0) as write_end:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), read_end
        )
        try:
            yield _Pipe(write_end, reader)
        finally:
            transport.close()

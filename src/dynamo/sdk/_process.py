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
from dynamo.sdk._orphans import Family
from dynamo.sdk._status import LINE_BYTES_MAX, RETIRE, Failed, Ready, Report, Starting, Stopped, decode_report

#: How long the output of a worker that has ended may still come: a process that it left behind can hold it open.
OUTPUT_GRACE_S = 1.0
#: How often a start that takes long says what it waits for.
PROGRESS_S = 10.0


@dataclass(frozen=True, slots=True)
class Command:
    """What is started: `dynamo.sdk._worker` with these arguments, and where."""

    label: str
    arguments: list[str]
    working_dir: str
    environment: dict[str, str]
    http: socket.socket | None = None


class WorkerProcess:
    """Starts one worker, prints its output, and knows what it reported last."""

    def __init__(
        self, command: Command, console: Console, on_change: Callable[[], None], family: Family | None = None
    ) -> None:
        self._command = command
        self._console = console
        self._on_change = on_change  # called when the worker reports something, and when it has ended
        self._family = family or Family(adopts=False)
        # The mutable state: what it said last, and how far its process is.
        self.report: Report = Starting("starting the process")
        self.ended = asyncio.Event()
        self.exit_status: int | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._wanted_end: signal.Signals | None = None
        self._status: asyncio.StreamWriter | None = None

    async def run(self) -> None:
        """Run the worker to its end. What it leaves behind is killed."""
        async with AsyncExitStack() as stack:
            stack.callback(self._has_ended)
            if self._wanted_end is not None:  # before it began
                self.exit_status = -self._wanted_end
                return
            stack.callback(self.kill)
            try:
                ours, theirs = socket.socketpair()
                stack.enter_context(ours)
                stack.enter_context(theirs)
                # Pipes of our own: with asyncio's, the end of a process is told only when what it left has ended.
                out = await stack.enter_async_context(_pipe())
                err = await stack.enter_async_context(_pipe())
                self._process = await self._start(out.write_end, err.write_end, theirs)
            except OSError as error:
                self.report = Failed(f"its process cannot be started: {error.strerror or error}")
                return
            for end in (out.write_end, err.write_end, theirs):
                end.close()
            self._send_wanted_end()
            await self._follow(self._process, out.reader, err.reader, ours)

    async def _start(self, out: BinaryIO, err: BinaryIO, status: socket.socket) -> asyncio.subprocess.Process:
        http = self._command.http
        fds = [status.fileno(), *([] if http is None else [http.fileno()])]
        # -P: a file of the user's must not stand in for a module that we import.
        words = [sys.executable, "-P", "-u", "-m", "dynamo.sdk._worker", *self._command.arguments]
        for option, fd in zip(("--status-fd", "--http-fd"), fds, strict=False):
            words += [option, str(fd)]
        with self._family.birth():
            process = await asyncio.create_subprocess_exec(
                *words,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=self._command.working_dir,
                env=self._command.environment,
                pass_fds=fds,
                process_group=0,
            )
            self._family.add(process.pid)
        return process

    def terminate(self) -> None:
        """Ask the worker to end, as soon as it has a process."""
        self._wanted_end = signal.SIGTERM
        self._send_wanted_end()

    def retire(self) -> None:
        """Tell the worker that others stand in for it: it unregisters now, and ends when nobody calls it."""
        if self._status is not None:
            self._status.write(RETIRE)
        else:
            self.terminate()

    def kill(self) -> None:
        """End the worker and what it has started, at once; not what has left its process group on purpose."""
        self._wanted_end = signal.SIGKILL
        self._send_wanted_end()

    @property
    def is_ready(self) -> bool:
        return isinstance(self.report, Ready) and not self.ended.is_set()

    @property
    def has_stopped(self) -> bool:
        """True when nobody needs to wait for it any more, whether or not its process still takes itself down."""
        return isinstance(self.report, Stopped) or self.ended.is_set()

    @property
    def how_it_ended(self) -> str:
        """What to tell about a worker that has ended, in a few words."""
        if isinstance(self.report, Failed):
            return self.report.reason
        if self.exit_status is not None and self.exit_status < 0:
            return f"killed by {_signal_name(-self.exit_status)}"
        return f"ended with status {self.exit_status}"

    async def _follow(
        self,
        process: asyncio.subprocess.Process,
        out: asyncio.StreamReader,
        err: asyncio.StreamReader,
        ours: socket.socket,
    ) -> None:
        relays = asyncio.gather(
            self._console.relay(out, self._command.label, self._console.out),
            self._console.relay(err, self._command.label, self._console.err),
            self._read_reports(ours),
        )
        try:
            self.exit_status = await process.wait()
            self.kill()  # what it has left behind in its group; the family ends the rest
            self._process = None
            self._family.remove(process.pid)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(OUTPUT_GRACE_S):
                    await asyncio.shield(relays)
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
        reader, self._status = await asyncio.open_connection(sock=ours, limit=LINE_BYTES_MAX)
        try:
            while line := await reader.readline():
                self.report = decode_report(line)
                self._on_change()
        except (msgspec.MsgspecError, ValueError) as error:  # user code may write to any file that is open
            self.report = Failed(f"its report cannot be read: {error}")
            self.kill()
        except ConnectionResetError:
            return  # its end, before it has read what was written to it
        finally:
            self._status.close()
            self._status = None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


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

"""A command in a terminal of its own, for tests: typed at, and read from, as a person would."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from types import TracebackType

DEADLINE_S = 90.0
CTRL_C = b"\x03"
CTRL_D = b"\x04"

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\r")


class PtySession:
    """`python -m dynamo.cli` with these arguments, as the foreground of a new terminal."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        command = [sys.executable, "-m", "dynamo.cli", *arguments]
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.execve(command[0], command, {**environment, "TERM": "dumb"})
        self._bytes = b""
        self._status: int | None = None
        #: How the terminal was set before the command could change it.
        self.modes_before = termios.tcgetattr(self._terminal)

    def __enter__(self) -> PtySession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._terminal)

    @property
    def text(self) -> str:
        """All that was on the screen, what was typed included."""
        return _ESCAPES.sub("", self._bytes.decode(errors="replace"))

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._terminal, keys)

    def read_until(self, pattern: str, *, after: int = 0) -> int:
        """Read until the pattern is on the screen, beyond the first `after` characters; return where it ends."""
        deadline = time.monotonic() + DEADLINE_S
        while (match := re.compile(pattern).search(self.text, after)) is None:
            if not self._read(deadline):
                raise AssertionError(f"{pattern!r} does not come; there is:\n{self.text}")
        return match.end()

    def exit_status(self) -> int:
        """Wait for the end; a negative number is a signal."""
        deadline = time.monotonic() + DEADLINE_S
        while self._read(deadline):
            pass
        _, status = os.waitpid(self.pid, 0)
        self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def modes(self) -> list[object]:
        """How the terminal is set now."""
        return list(termios.tcgetattr(self._terminal))

    def _read(self, deadline: float) -> bool:
        """Read what there is, waiting for it; False once there will be no more."""
        if not select.select([self._terminal], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise AssertionError(f"nothing comes any more; there is:\n{self.text}")
        try:
            piece = os.read(self._terminal, 1 << 16)
        except OSError:  # how Linux says that the other end is closed
            return False
        self._bytes += piece
        return bool(piece)

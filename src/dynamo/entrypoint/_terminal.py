"""The terminal of a chat: lines from the keyboard, text to the screen, and Ctrl-C.

Lines are read with Python's `input`, for its line editing, in a thread of their own: `input` cannot be
awaited and cannot be interrupted. The thread is abandoned when the chat ends, and the terminal is put back
to what it was before.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO, TypeVar

T = TypeVar("T")

_READ_BYTES = 1 << 16

#: What a model says is text. On a screen it must not move the cursor, change the title or fill the clipboard.
_SHOWN = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


class Terminal:
    """Use it inside `keyboard`."""

    def __init__(self) -> None:
        # What Ctrl-C does now.
        self._on_interrupt: Callable[[], object] = _nothing

    @contextmanager
    def keyboard(self) -> Iterator[None]:
        """Within the block Ctrl-C is ours to handle, and lines can be read."""
        loop = asyncio.get_running_loop()
        descriptor = sys.stdin.fileno()
        before = termios.tcgetattr(descriptor)
        with contextlib.suppress(ImportError):
            import readline  # input() edits lines once this is imported

            # Or a chat that is left by Ctrl-C would leave the terminal in this mode.
            readline.parse_and_bind("set enable-bracketed-paste off")
        loop.add_signal_handler(signal.SIGINT, lambda: self._on_interrupt())
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)

    @contextmanager
    def interrupting(self, action: Callable[[], object]) -> Iterator[None]:
        """Within the block Ctrl-C does this."""
        before, self._on_interrupt = self._on_interrupt, action
        try:
            yield
        finally:
            self._on_interrupt = before

    async def line(self, prompt: str) -> str | None:
        """Return what is typed; None once there will be no more: Ctrl-D, or Ctrl-C."""
        reading = in_thread(lambda: input(prompt))
        leaving: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        try:
            with self.interrupting(leaving.cancel):
                await asyncio.wait([reading, leaving], return_when=asyncio.FIRST_COMPLETED)
            return reading.result() if reading.done() else None
        except EOFError:
            return None
        except UnicodeDecodeError as error:
            self.note(f"error: this line is not {error.encoding}; type it again")
            return ""
        finally:
            reading.cancel()
            leaving.cancel()

    def show(self, text: str) -> None:
        """Print text of a model, as it comes; into a file or a pipe as it is."""
        print(shown_text(text) if is_terminal(sys.stdout) else text, end="", flush=True)

    def note(self, text: str) -> None:
        """Print a line of our own, beside what is said."""
        print(text, file=sys.stderr, flush=True)


def _nothing() -> None:
    """What Ctrl-C does between an answer and the next question."""


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person is at the other end; None is a stream that was closed before the process began."""
    return stream is not None and stream.isatty()


def shown_text(text: str) -> str:
    """Return text in which nothing but text is left."""
    return text.translate(_SHOWN)


def read_stdin(size_bytes_max: int) -> bytes:
    """Return all that stdin has, or a byte more than `size_bytes_max` if it has more. Blocks.

    It reads the descriptor: an abandoned thread that waits inside `sys.stdin` would stop the interpreter's end.
    """
    pieces: list[bytes] = []
    size = 0
    while size <= size_bytes_max and (piece := os.read(0, _READ_BYTES)):
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces)[: size_bytes_max + 1]


def in_thread(work: Callable[[], T]) -> asyncio.Future[T]:
    """Do work that may never end in a thread that nobody waits for."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if outcome.done():
            return
        if error is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(result)  # type: ignore[arg-type]  # a T, because there was no error

    def run() -> None:
        result: T | None = None
        error: BaseException | None = None
        try:
            result = work()
        except BaseException as caught:  # it belongs to whoever waits
            error = caught
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name="dynamo-run-input", daemon=True).start()
    return outcome

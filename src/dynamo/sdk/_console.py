"""What `dynamo serve` prints: its own lines, and those of its workers with a name before each."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Mapping
from typing import BinaryIO, TextIO

#: A longer line of a worker is printed in pieces.
LINE_BYTES_MAX = 1 << 16
_READ_BYTES = 1 << 16

_COLOURS = (36, 33, 35, 32, 34, 31)  # cyan, yellow, magenta, green, blue, red


class Console:
    """Two streams of lines for people, in colour where they are terminals and NO_COLOR is not set."""

    def __init__(self, out: BinaryIO, err: BinaryIO, environment: Mapping[str, str]) -> None:
        self.out = out
        self.err = err
        self._may_colour = not environment.get("NO_COLOR")
        self._colour_of: dict[str, int] = {}

    @classmethod
    def standard(cls) -> Console:
        """The console of this process. A stream that was closed before it began takes what is printed nowhere."""
        return cls(_bytes_of(sys.stdout), _bytes_of(sys.stderr), os.environ)

    def say(self, text: str) -> None:
        """Print a line of our own."""
        self._write(self.out, encoded(text) + b"\n")

    def warn(self, text: str) -> None:
        self._write(self.err, self._painted(self.err, "warning:", 33) + b" " + encoded(text) + b"\n")

    def error(self, text: str) -> None:
        """Print what is wrong; of several faults, each on a line."""
        for line in text.splitlines():
            self._write(self.err, self._painted(self.err, "error:", 31) + b" " + encoded(line) + b"\n")

    async def relay(self, reader: asyncio.StreamReader, label: str, stream: BinaryIO) -> None:
        """Print what a worker writes until it ends, line by line. `label` names it: `Service:number`."""
        rest = b""
        while chunk := await reader.read(_READ_BYTES):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > LINE_BYTES_MAX:
                lines, rest = [*lines, rest], b""
            self._write(stream, b"".join(self._relayed(line, label, stream) + b"\n" for line in lines))
        if rest:
            self._write(stream, self._relayed(rest, label, stream) + b"\n")

    def _relayed(self, line: bytes, label: str, stream: BinaryIO) -> bytes:
        colour = self._colour_of.setdefault(label.partition(":")[0], _COLOURS[len(self._colour_of) % len(_COLOURS)])
        return self._painted(stream, f"[{label}]", colour) + b" " + line

    def _write(self, stream: BinaryIO, data: bytes) -> None:
        # Nobody may read any more, or the disk may be full: that must not take the services down.
        with contextlib.suppress(OSError):
            # A signal cuts a write short where Python's own buffer is off, as PYTHONUNBUFFERED has it.
            while data and (written := stream.write(data)):
                data = data[written:]
            stream.flush()

    def _painted(self, stream: BinaryIO, text: str, colour: int) -> bytes:
        if self._may_colour and stream.isatty():
            return f"\x1b[{colour}m{text}\x1b[0m".encode()
        return text.encode()


def _bytes_of(stream: TextIO | None) -> BinaryIO:
    return open(os.devnull, "wb") if stream is None else stream.buffer


def encoded(text: str) -> bytes:
    # An argument that is not UTF-8 comes as lone surrogates, which must not fail the message about it.
    return text.encode(errors="backslashreplace")

"""What `dynamo serve --log-format json` prints: an object on every line, whoever wrote it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import BinaryIO

import msgspec

from dynamo.sdk._console import Console, encoded

TARGET = "dynamo.serve"

_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


class JsonConsole(Console):
    """Two streams of lines for machines.

    A line of a worker that is a JSON object stays one, and gets `service` and `worker_id`. Any other line
    becomes the `message` of an object, with the stream that it was written to as its `target`.
    """

    def say(self, text: str) -> None:
        self._write(self.out, _own_line("INFO", text))

    def warn(self, text: str) -> None:
        self._write(self.err, _own_line("WARNING", text))

    def error(self, text: str) -> None:
        for line in text.splitlines():
            self._write(self.err, _own_line("ERROR", line))

    def _relayed(self, line: bytes, label: str, stream: BinaryIO) -> bytes:
        service, _, number = label.partition(":")
        source: dict[str, object] = {"service": service, "worker_id": int(number) if number else None}
        entry = _json_object(line)
        if entry is None:
            entry = _entry("INFO", "stdout" if stream is self.out else "stderr", line.decode(errors="replace"))
        return msgspec.json.encode({**entry, **source})


def _own_line(level: str, text: str) -> bytes:
    return msgspec.json.encode(_entry(level, TARGET, encoded(text).decode())) + b"\n"


def _entry(level: str, target: str, message: str) -> dict[str, object]:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"time": now, "level": level, "target": target, "message": message}


def _json_object(line: bytes) -> dict[str, object] | None:
    """The object that a line is, if it is one. Its values are handed on as they are written."""
    try:
        line.decode()
        return dict(_object.decode(line))
    except (UnicodeDecodeError, msgspec.MsgspecError, RecursionError):
        return None

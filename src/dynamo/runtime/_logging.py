"""What a process of ours logs, and how: one line per event on stderr, in UTC, without colours.

`DYN_LOG` is a level, levels of single targets, or both: `info`, `dynamo.llm=debug`,
`warning,dynamo.llm=debug`. A target is the name of a logger and of all below it.
`DYN_LOGGING_JSONL=1` makes each line a JSON object, and `DYN_LOG_USE_LOCAL_TZ=1` has the time of this place.

A line that is written while a request is handled has the ids of the request and of its trace. Lines of ours that
repeat too often are counted instead (`_log_repeats.py`).
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from typing import TextIO

from dynamo._core.context import Context, current_context
from dynamo._core.errors import ConfigError
from dynamo.runtime._log_repeats import Repeats
from dynamo.runtime._settings import parse_bool

logger = logging.getLogger(__name__)

LEVEL_VARIABLE = "DYN_LOG"
JSONL_VARIABLE = "DYN_LOGGING_JSONL"
LOCAL_TIME_VARIABLE = "DYN_LOG_USE_LOCAL_TZ"
#: Of earlier releases: a file with levels. DYN_LOG says the same.
FILE_VARIABLE = "DYN_LOGGING_CONFIG_PATH"

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}
#: The key of the level that every target has which is not named.
_ROOT = ""

#: uvicorn tells of its start, its end and every mistake of a client. We say the first two ourselves, and
#: the clients get told the third.
_QUIET = {"uvicorn": logging.ERROR}


def set_up_logging(environ: Mapping[str, str]) -> None:
    """Log as the variables say; raises `ConfigError` if one is wrong. To be called once, by a `main`."""
    levels = {_ROOT: logging.INFO} | _QUIET | _levels(environ.get(LEVEL_VARIABLE, ""))
    zone = None if _is_true(environ, LOCAL_TIME_VARIABLE) else UTC
    handler = _Output(Repeats(time.monotonic))
    handler.setFormatter(_JsonLines(zone) if _is_true(environ, JSONL_VARIABLE) else _Lines(zone))
    logging.basicConfig(handlers=[handler])
    for target, level in levels.items():
        logging.getLogger(target).setLevel(level)
    if environ.get(FILE_VARIABLE):
        logger.warning("%s has no effect; %s has levels, also for single targets", FILE_VARIABLE, LEVEL_VARIABLE)


def _levels(text: str) -> dict[str, int]:
    levels: dict[str, int] = {}
    for part in text.split(",") if text.strip() else ():
        target, equals, name = (piece.strip() for piece in part.rpartition("="))
        level = _LEVELS.get(name.lower())
        if level is None or (equals and not target):
            raise ConfigError(
                f"{LEVEL_VARIABLE}={text!r}: {part.strip()!r} is no level; use debug, info, warning or error, "
                "and target=level for single targets, separated by commas",
                setting=LEVEL_VARIABLE,
            )
        if target in levels:
            whose = f"the target {target!r}" if target else "all targets"
            raise ConfigError(f"{LEVEL_VARIABLE}={text!r} has two levels for {whose}", setting=LEVEL_VARIABLE)
        levels[target] = level
    return levels


def _is_true(environ: Mapping[str, str], variable: str) -> bool:
    text = environ.get(variable, "")
    try:
        return bool(text) and parse_bool(text)
    except ValueError:
        raise ConfigError(f"{variable}={text!r} is not true or false: use 1 or 0", setting=variable) from None


def _time_of(record: logging.LogRecord, zone: tzinfo | None) -> str:
    moment = datetime.fromtimestamp(record.created, zone).astimezone(zone)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _request_ids() -> dict[str, str]:
    """The ids of the request that is being handled; empty if none is."""
    context: Context | None = current_context.get()
    if context is None or context.is_over:  # over: what it has started goes on for others
        return {}
    trace = context.trace
    return {"x_request_id": context.request_id, "trace_id": trace.trace_id, "span_id": trace.span_id}


class _Output(logging.StreamHandler[TextIO]):
    """Writes to stderr, and says of lines that repeat how many there were."""

    def __init__(self, repeats: Repeats) -> None:
        super().__init__(sys.stderr)
        self._repeats = repeats

    def emit(self, record: logging.LogRecord) -> None:
        self._tell(self._repeats.due())
        if self._repeats.admits(record):
            super().emit(record)
        elif self._repeats.has_just_begun(record):
            self._tell([self._repeats.announcement(record)])

    def close(self) -> None:
        self._tell(self._repeats.rest())
        super().close()

    def _tell(self, records: Sequence[logging.LogRecord]) -> None:
        """Write what is said of many lines: it belongs to no request, whoever happens to log now."""
        if not records:
            return
        token = current_context.set(None)
        try:
            for record in records:
                super().emit(record)
        finally:
            current_context.reset(token)


class _Lines(logging.Formatter):
    """For people: time, level, target, message, ids, and the traceback if there is one."""

    def __init__(self, zone: tzinfo | None) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._zone = zone

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        line, ids = super().formatMessage(record), _request_ids()
        if not ids:
            return line
        if ids["trace_id"] == ids["x_request_id"]:
            del ids["trace_id"]
        words = (f"{name}={id if id.isprintable() else ascii(id)}" for name, id in ids.items())
        return f"{line} [{' '.join(words)}]"

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - logging's name
        return _time_of(record, self._zone)


class _JsonLines(logging.Formatter):
    """For machines: an object per line, in ASCII, so that no encoding can break it."""

    def __init__(self, zone: tzinfo | None) -> None:
        super().__init__()
        self._zone = zone

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, str | int] = {
            "time": _time_of(record, self._zone),
            "level": record.levelname,
            "target": record.name,
            "message": record.getMessage(),
            "file": record.pathname,
            "line": record.lineno,
            **_request_ids(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)

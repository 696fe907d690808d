"""Log a message of somebody who is elsewhere: in another language, or another process."""

from __future__ import annotations

import logging

from dynamo._core.errors import InvalidArgument
from dynamo._core.stability import beta

#: Loggers of ours have no level below debug.
_LEVELS = {
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": logging.DEBUG,
}


@beta(since="0.1")
def log_message(level: str, message: str, module: str, file: str, line: int) -> None:
    """Log `message` as if it came from this line of this file; `module` is its target, as in `DYN_LOG`.

    Raises `InvalidArgument` unless `level` is error, warn, warning, info, debug or trace, in either case, and TypeError
    for a text that is none, or a line that is no number.
    """
    number = _LEVELS.get(level.lower()) if isinstance(level, str) else None
    if number is None:
        raise InvalidArgument(f"level={level!r}: give one of {', '.join(_LEVELS)}", level=str(level))
    if not isinstance(line, int):
        raise TypeError(f"line={line!r} is of type {type(line).__name__}: give the number of a line, or 0")
    for parameter, text in (("message", message), ("module", module), ("file", file)):
        if not isinstance(text, str):
            raise TypeError(f"{parameter}={text!r} is of type {type(text).__name__}: give a str")
    logger = logging.getLogger(module)
    if logger.isEnabledFor(number):
        logger.handle(logger.makeRecord(module, number, file, line, message, (), None))

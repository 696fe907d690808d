"""How a command is run: a command line that is wrong is one line that says so, and so is an output that is full.

The library behind the commands shows the first as a box of several lines, which no other error has, and the second
as a traceback.
"""

from __future__ import annotations

import errno
import os
import re
import sys

import typer

from dynamo._core.exit_status import FAILED, OK, USAGE

# The library is a part of typer, or a package beside it: it is known by what typer shows of it.
_UsageError: type = typer.BadParameter.__mro__[1]

#: What was to be a value of the configuration, perhaps a secret, but lacks the `--` that makes it one.
_VALUE = re.compile(r"(\.[^=\s]+)=.*\)$")
#: What the library puts before the reason why a value is refused.
_REFUSED = "Value error, "
#: Why a file that is open for writing takes no more.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def run(app: typer.Typer) -> int:
    """Run the commands; return the exit status."""
    try:
        status = app(standalone_mode=False)
        if sys.stdout is not None:  # as in a process that was started without one
            sys.stdout.flush()
    except typer.Abort:
        return FAILED
    except OSError as error:
        if error.filename is not None or error.errno not in (errno.EPIPE, *_FULL):
            raise
        return _give_up_output(error)
    except Exception as error:
        if not isinstance(error, _UsageError):
            raise
        return _explain(error)
    return status if isinstance(status, int) else OK


def _give_up_output(error: OSError) -> int:
    """Say that stdout is full; a reader that is gone has seen enough. Nothing more is written, not at exit either."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if error.errno != errno.EPIPE:
        sys.stderr.write(f"error: the output cannot be written: {error.strerror}\n")
    return FAILED


def _explain(error: Exception) -> int:
    said = " ".join(str(getattr(error, "format_message")()).split())  # noqa: B009 - its class is known at run time
    said = said.replace(_REFUSED, "", 1)
    if type(error) is _UsageError:
        said = _VALUE.sub(r"\1=...)", said)
    if said:  # where nothing was asked for, help was printed instead
        context: typer.Context | None = getattr(error, "ctx", None)
        where = "" if context is None else f" (see {context.command_path} --help)"
        sys.stderr.write(f"error: {said}{where}\n")
    return int(getattr(error, "exit_code", USAGE))

"""A command line that is wrong: one line that says what is wrong with it and where help is.

The library behind the commands shows such an error as a box of several lines, which no other error has.
"""

from __future__ import annotations

import re
import sys

import typer

# The library is a part of typer, or a package beside it: it is known by what typer shows of it.
_UsageError: type = typer.BadParameter.__mro__[1]

#: What was to be a value of the configuration, perhaps a secret, but lacks the `--` that makes it one.
_VALUE = re.compile(r"(\.[^=\s]+)=.*\)$")


def run(app: typer.Typer) -> int:
    """Run the commands; return the exit status."""
    try:
        status = app(standalone_mode=False)
    except typer.Abort:
        return 1
    except Exception as error:
        if not isinstance(error, _UsageError):
            raise
        return _explain(error)
    return status if isinstance(status, int) else 0


def _explain(error: Exception) -> int:
    said = " ".join(str(getattr(error, "format_message")()).split())  # noqa: B009 - its class is known at run time
    if type(error) is _UsageError:
        said = _VALUE.sub(r"\1=...)", said)
    if said:  # where nothing was asked for, help was printed instead
        context: typer.Context | None = getattr(error, "ctx", None)
        where = "" if context is None else f" (see {context.command_path} --help)"
        sys.stderr.write(f"error: {said}{where}\n")
    return int(getattr(error, "exit_code", 2))

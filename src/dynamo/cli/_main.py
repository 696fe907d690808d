"""The start of every command: what must hold before anything else is imported, and how it ends."""

from __future__ import annotations

import importlib
import os
import sys

from dynamo._core.exit_status import INTERRUPTED
from dynamo._core.stability import stable


@stable(since="0.1")
def main() -> None:
    """Run the command that the command line names."""
    start("dynamo.cli._app")


def start(module: str) -> None:
    """Run the `app` of a module. A command line that is wrong is one line on stderr."""
    _open_closed_streams()
    try:
        from dynamo.cli._usage import run

        status = run(importlib.import_module(module).app)
    except KeyboardInterrupt:
        status = INTERRUPTED
    sys.exit(status)


def _open_closed_streams() -> None:
    """Open the standard streams that are closed, or the next file that is opened would be taken for one of them."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is this one

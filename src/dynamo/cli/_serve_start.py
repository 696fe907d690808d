"""`dynamo serve`, from its options to its exit status."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from dynamo._core.errors import ConfigError, WrongUsage
from dynamo._core.exit_status import FAILED, INTERRUPTED, OK, USAGE
from dynamo.cli._serve_options import LogFormat, ServeOptions
from dynamo.cli._serve_plan import Wanted, check_reload, depends_variables
from dynamo.sdk._console import Console
from dynamo.sdk._edits import follow_edits
from dynamo.sdk._effective import show
from dynamo.sdk._end_signals import unless_ended
from dynamo.sdk._json_console import JsonConsole
from dynamo.sdk._orphans import Family
from dynamo.sdk._plan import Plan
from dynamo.sdk._slot import RestartPolicy
from dynamo.sdk._supervisor import Reloading, Supervision, supervise


def start(options: ServeOptions, began: float) -> int:
    """Serve; return the exit status. `began` is when the command did, as `time.monotonic` says it."""
    console = (JsonConsole if options.log_format is LogFormat.json else Console).standard()
    family = Family.adopting()
    try:
        folder = _resolved(options.working_dir)
        environment = {**os.environ, **depends_variables(options.depends), **_worker_variables(options)}
        if options.reload:
            check_reload(environment)
        wanted = Wanted(options, folder, dict(os.environ))
        read = partial(wanted.plan, console, family, environment)
        edits = partial(follow_edits, folder, options.config_file and os.path.realpath(options.config_file))
        how = Supervision(
            environment,
            restart=RestartPolicy() if options.restart else None,
            reloading=Reloading(edits, read) if options.reload else None,
            began=began,
            verbose=options.verbose,
            family=family,
        )
        return asyncio.run(_serve(read, console, how, dry_run=options.dry_run))
    except ConfigError as error:
        console.error(error.message)
        return USAGE if isinstance(error, WrongUsage) else FAILED


async def _serve(read: Callable[[], Awaitable[Plan]], console: Console, how: Supervision, *, dry_run: bool) -> int:
    """Return the exit status."""
    plan = await unless_ended(read())
    if plan is None:
        return INTERRUPTED
    if dry_run:
        show(plan, console)
        return OK
    return await supervise(plan, console, how)


def _resolved(working_dir: Path) -> str:
    try:
        return str(working_dir.resolve())
    except OSError as error:  # the current one may have been deleted
        raise WrongUsage(f"the working directory {working_dir} cannot be used: {error.strerror or error}") from error


def _worker_variables(options: ServeOptions) -> dict[str, str]:
    variables = {}
    if options.log_format is LogFormat.json:
        variables["DYN_LOGGING_JSONL"] = "1"
    if options.reload:
        # Bytecode goes by the second in which its source was written: an edit within the same one would be missed.
        variables["PYTHONDONTWRITEBYTECODE"] = "1"
    return variables

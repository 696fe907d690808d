"""Reads the outline of a graph, in a process of its own.

Importing a graph runs the user's code: it may print, block, start threads, fill gigabytes, or end its
process. The parent of the workers must outlive all of that, so it has the graph imported by a process that
tells what the graph is and is then ended, with whatever it has started.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from dynamo._core.errors import ConfigError, WrongUsage
from dynamo.sdk._console import Console
from dynamo.sdk._orphans import Family
from dynamo.sdk._outline import Outline
from dynamo.sdk._process import PROGRESS_S, Command, WorkerProcess
from dynamo.sdk._status import START_TIMEOUT_S, Failed


async def read_outline(
    graph: str,
    working_dir: str,
    console: Console,
    environment: Mapping[str, str],
    family: Family | None = None,
    *,
    verbose: bool = False,
) -> Outline:
    """Return what the graph is, imported with this environment; `verbose` also prints the traceback of a failure.

    Raises `ConfigError` for whatever cannot work; cancelled, it leaves nothing behind.
    """
    changed = asyncio.Event()
    arguments = [graph, "--verbose"] if verbose else [graph]
    command = Command("graph", arguments, working_dir, dict(environment))
    process = WorkerProcess(command, console, changed.set, family)
    running = asyncio.create_task(process.run())
    try:
        await _until_imported(graph, process, changed, console)
    finally:
        process.kill()
        await asyncio.wait([running])
    running.result()
    if isinstance(process.report, Outline):
        return process.report
    if isinstance(process.report, Failed):
        raise (WrongUsage if process.report.is_usage else ConfigError)(process.report.reason)
    raise ConfigError(f"importing {graph} ended the process that did it: {process.how_it_ended}")


async def _until_imported(graph: str, process: WorkerProcess, changed: asyncio.Event, console: Console) -> None:
    """Wait until the process has told what the graph is, has failed or has ended. Raises `ConfigError` in time."""
    deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
    while not (process.ended.is_set() or isinstance(process.report, Outline | Failed)):
        changed.clear()
        try:
            async with asyncio.timeout(PROGRESS_S):
                await changed.wait()
        except TimeoutError:
            console.say(f"still importing {graph}")
        if asyncio.get_running_loop().time() > deadline:
            raise ConfigError(f"{graph} was not imported within {START_TIMEOUT_S:.0f} s")

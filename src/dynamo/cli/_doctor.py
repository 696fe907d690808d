"""`dynamo doctor`: looks at what is there, and says what is wrong and what to do."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

WRONG = 1


class Area(StrEnum):
    """What can be looked at alone."""

    INSTALL = "install"
    SETTINGS = "settings"
    PLANES = "planes"
    WORKERS = "workers"
    FRONTEND = "frontend"


def doctor(
    url: Annotated[
        list[str] | None,
        typer.Option(
            envvar="DYN_FRONTEND_URL",
            help="A frontend, or a `dynamo route`; may be repeated. Else http://127.0.0.1:8000, if somebody is there.",
        ),
    ] = None,
    only: Annotated[list[Area] | None, typer.Option(help="Look at this only; may be repeated.")] = None,
    imports: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            metavar="PATH",
            help="Look at this code only, a file or a folder: what has to change in it, if it was written for an older "
            "Dynamo or for BentoML. It is read, and not run. May be repeated.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Look at what is there, and say what is wrong and what to do about it, a line for each.

    Looks at the installation, the settings in the environment, discovery, the event plane and the work queue, the
    workers and models that are registered, and frontends with their routers; or, with --imports, at code instead.
    Nothing is changed anywhere. The exit status is 0 if all is well, and 1 if something is wrong, be it a
    warning.
    """
    import asyncio

    from dynamo._core.errors import ConfigError
    from dynamo.cli._doctor_examine import examine
    from dynamo.cli._doctor_finding import Level, lines
    from dynamo.cli._doctor_imports import look_at_code
    from dynamo.cli._frontend_http import check_url

    if imports and (url or only):
        raise typer.BadParameter("looks at code only: leave the other options out", param_hint="--imports")
    try:
        urls = [check_url(one) for one in url or ()]
    except ConfigError as error:
        raise typer.BadParameter(error.message, param_hint="--url") from error
    if imports:
        findings = look_at_code(imports)
    else:
        with _unlogged():
            findings = asyncio.run(examine(os.environ, urls, frozenset(map(str, only or Area))))
    wrong = [finding for finding in findings if finding.level is not Level.OK]
    if as_json:
        report = {"well": not wrong, "findings": [finding.fields() for finding in findings]}
        typer.echo(json.dumps(report, indent=2))
    else:
        typer.echo("\n".join(lines(findings)))
    raise typer.Exit(WRONG if wrong else 0)


@contextmanager
def _unlogged() -> Iterator[None]:
    """Keep what the parts that are looked at would log off the terminal: it is among the findings."""
    ours, nowhere = logging.getLogger("dynamo"), logging.NullHandler()
    ours.addHandler(nowhere)
    try:
        yield
    finally:
        ours.removeHandler(nowhere)

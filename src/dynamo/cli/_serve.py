"""`dynamo serve`: start an inference graph on this machine."""

from __future__ import annotations

import asyncio
import json
import os
import re
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperCommand

from dynamo._core.errors import ConfigError
from dynamo.sdk._config import merged_config
from dynamo.sdk._console import Console
from dynamo.sdk._effective import show
from dynamo.sdk._importing import read_outline
from dynamo.sdk._plan import WrongUsage, make_plan
from dynamo.sdk._sections import ENVIRONMENT_VARIABLE
from dynamo.sdk._supervisor import FAILED, supervise
from dynamo.sdk.lib.config import ServiceConfig

USAGE = 2

_OVERRIDE = re.compile(r"--(?P<path>[A-Za-z_]\w*\.[^=\s]+)(=(?P<value>.*))?", re.DOTALL)


class OverridableCommand(TyperCommand):
    """A command that takes `--Service.key=value` beside its options, anywhere on its command line."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        rest, overrides = split_overrides(ctx, args)
        ctx.obj = overrides
        return super().parse_args(ctx, rest)


def split_overrides(ctx: typer.Context | None, args: list[str]) -> tuple[list[str], list[str]]:
    """Return the other arguments, and the overrides, each as `Service.key=value`.

    They are written `--Service.key=value`, `--Service.key value` or `--Service.key = value`.
    """
    rest: list[str] = []
    overrides: list[str] = []
    remaining = iter(args)
    for argument in remaining:
        match = _OVERRIDE.fullmatch(argument)
        if match is None:
            rest.append(argument)
            continue
        value = match["value"]
        if value is None:
            value = next(remaining, None)
            value = next(remaining, None) if value == "=" else value
            if value is None or value.startswith("--"):
                raise typer.BadParameter(f"--{match['path']} needs a value: write --{match['path']}=VALUE", ctx=ctx)
        overrides.append(f"{match['path']}={value}")
    return rest, overrides


def serve(
    ctx: typer.Context,
    graph: Annotated[
        str,
        typer.Argument(
            metavar="GRAPH",
            help="What to serve: MODULE:SERVICE, or path/file.py:SERVICE. Without :SERVICE, the one service of "
            "the module that no other depends on. Everything that it depends on is started, too.",
            show_default=False,
        ),
    ],
    config_file: Annotated[
        Path | None,
        typer.Option(
            "--config-file", "-f", help="A YAML file with a section for each service.", exists=True, dir_okay=False
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            "-p",
            envvar="DYNAMO_PORT",
            min=0,
            max=65535,
            help="The port of the first service that serves HTTP, 8000 unless it is configured; 0 takes a free one.",
        ),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            "--host", envvar="DYNAMO_HOST", help="The address that it listens on, 127.0.0.1 unless configured."
        ),
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure",
            envvar="DYNAMO_INSECURE",
            help="Allow addresses that other machines reach, although nobody is asked for credentials.",
        ),
    ] = False,
    working_dir: Annotated[
        Path,
        typer.Option(
            "--working-dir", help="Where modules are looked for and workers run.", exists=True, file_okay=False
        ),
    ] = Path("."),
    service_name: Annotated[
        str | None,
        typer.Option("--service-name", envvar="DYNAMO_SERVICE_NAME", help="Run only this service of the graph."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be started, and start nothing.")] = False,
) -> None:
    """Start a graph of services on this machine, and keep it running.

    Each worker of a service is a process. When all of them can be called, a line that begins with "ready"
    says so. Ctrl-C ends them in order, callers first, within 30 seconds; a second Ctrl-C at once.

    --Service.key=VALUE sets a value of the configuration; the command line wins over the environment
    (DYNAMO_SERVICE_CONFIG), that over the file, that over the decorator, and that over the constructor.
    --Service.ServiceArgs.key=VALUE overrides an argument of @service, such as workers.

    A worker that ends by itself is reported and not started again; when a service has none left, everything
    ends. The exit status is 0 after an orderly end, 1 after a failure, 2 if the command line is wrong and 130
    after a second Ctrl-C.
    """
    console = Console.standard()
    folder = str(working_dir.resolve())
    config = _config(console, config_file, ctx.obj)
    try:
        outline = asyncio.run(read_outline(graph, folder, console))
        plan = make_plan(
            graph,
            folder,
            outline,
            config,
            os.environ,
            host=host,
            port=port,
            insecure=insecure,
            service_name=service_name,
        )
        for warning in plan.warnings:
            console.warn(warning)
        if dry_run:
            show(plan, console)
            return
        status = asyncio.run(supervise(plan, console))
    except ConfigError as error:
        console.error(error.message)
        raise typer.Exit(USAGE if isinstance(error, WrongUsage) else FAILED) from None
    raise typer.Exit(status)


def _config(console: Console, file: Path | None, overrides: list[str]) -> ServiceConfig:
    """Merge the configuration and put it into the environment, where the graph reads it while it is imported."""
    try:
        config = merged_config(None if file is None else str(file), os.environ, overrides)
    except ConfigError as error:
        console.error(error.message)
        raise typer.Exit(USAGE) from None
    os.environ[ENVIRONMENT_VARIABLE] = json.dumps(config)
    return config

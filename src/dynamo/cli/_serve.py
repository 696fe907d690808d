"""`dynamo serve`: start an inference graph on this machine. What it does is imported when it is called."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperCommand

from dynamo.cli._serve_options import LogFormat, ServeOptions

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
        value = _next_value(remaining) if match["value"] is None else match["value"]
        if value is not None:
            overrides.append(f"{match['path']}={value}")
        elif ctx is None or not ctx.resilient_parsing:  # as where a shell completes the line that is being typed
            raise typer.BadParameter(f"--{match['path']} needs a value: write --{match['path']}=VALUE", ctx=ctx)
    return rest, overrides


def _next_value(arguments: Iterator[str]) -> str | None:
    """Take the value that stands apart from its key, perhaps behind a `=`; None if there is none."""
    value = next(arguments, None)
    value = next(arguments, None) if value == "=" else value
    return None if value is None or value.startswith("--") else value


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
    depends: Annotated[
        list[str] | None,
        typer.Option(
            "--depends",
            envvar="DYNAMO_SERVE_DEPENDS",
            metavar="NAME=ADDRESS",
            help="A service that runs elsewhere and is called there: NAME=dynamo://NAMESPACE/COMPONENT. Repeatable.",
        ),
    ] = None,
    reload: Annotated[
        bool,
        typer.Option(
            "--reload",
            help="Watch the .py and .yaml files below the working directory: when one is edited, new processes "
            "start beside the old ones and take over as soon as all of them are ready.",
        ),
    ] = False,
    restart: Annotated[
        bool,
        typer.Option(
            "--restart/--no-restart",
            help="Whether a worker that crashes is started again, with the same number and environment.",
        ),
    ] = True,
    log_format: Annotated[
        LogFormat,
        typer.Option("--log-format", help="Lines for people, or a JSON object on every line of both streams."),
    ] = LogFormat.text,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Print the traceback of what goes wrong in the code of a service.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be started, and start nothing.")] = False,
) -> None:
    """Start a graph of services on this machine, and keep it running.

    For example: `dynamo serve graph.py:Frontend -f config.yaml --Worker.ServiceArgs.workers=2`.

    Each worker of a service is a process. When all of them can be called, a line that begins with "ready"
    says so. Ctrl-C ends them in order, callers first, within 30 seconds; a second Ctrl-C at once.

    --Service.key=VALUE sets a value of the configuration; the command line wins over the environment
    (DYNAMO_SERVICE_CONFIG), that over the file, that over the decorator, and that over the constructor.
    --Service.ServiceArgs.key=VALUE overrides an argument of @service, such as workers.

    A worker that crashes is started again: after half a second, then after twice as long each time, up to 30
    seconds. After five starts in a row that fail it is given up, unless they fail because a server that a setting
    names is away, such as etcd. A worker that ends by itself with status 0 was done. When a service has no worker
    left, everything ends. A worker that fails before everything was ready once ends everything, too.

    With --reload, code that cannot be imported or does not become ready is told, and what runs goes on.
    While it starts, old and new processes are there at the same time, and the requests that the old ones
    have begun are finished by them.

    The exit status is 0 after an orderly end, 1 after a failure, 2 if the command line or the configuration
    is wrong and 130 after a second Ctrl-C or SIGTERM, or the first one while the graph is imported.
    """
    began = time.monotonic()
    from dynamo.cli._serve_start import start

    options = ServeOptions(
        graph=graph,
        config_file=None if config_file is None else str(config_file),
        overrides=ctx.obj,
        port=port,
        host=host,
        insecure=insecure,
        working_dir=working_dir,
        service_name=service_name,
        depends=depends or [],
        reload=reload,
        restart=restart,
        log_format=log_format,
        verbose=verbose,
        dry_run=dry_run,
    )
    raise typer.Exit(start(options, began))

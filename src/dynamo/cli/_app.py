"""The `dynamo` command. Each of its subcommands is a file beside this one."""

from __future__ import annotations

from typing import Annotated

import typer

from dynamo.cli._doctor import doctor
from dynamo.cli._env import env
from dynamo.cli._explain import explain
from dynamo.cli._replay import replay
from dynamo.cli._route import PassedOnCommand, route
from dynamo.cli._run import run
from dynamo.cli._serve import OverridableCommand, serve

DISTRIBUTION = "dynamo-serve"

app = typer.Typer(
    name="dynamo",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
app.command("serve", cls=OverridableCommand)(serve)
app.command("run")(run)
app.command("route", cls=PassedOnCommand)(route)
app.command("explain")(explain)
app.command("replay")(replay)
app.command("doctor")(doctor)
app.command("env")(env)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # slow to import

        typer.echo(f"dynamo {version(DISTRIBUTION)}")
        raise typer.Exit


@app.callback()
def dynamo(
    show_version: Annotated[
        bool,
        typer.Option("--version", "-v", help="Show the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """Serve inference graphs: plain Python classes that become processes."""

"""The `dynamo` command. Each of its subcommands is a file beside this one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from dynamo._core.stability import Tier, beta, stability_of, stable
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


def _short_help(command: Callable[..., None]) -> str:
    """What the list of the commands says of one: its first sentence, and its tier unless it is stable."""
    first = (command.__doc__ or "").partition("\n\n")[0]
    mark = stability_of(command)
    return " ".join(first.split()) + ("" if mark is None or mark.tier is Tier.STABLE else f" [{mark.tier}]")


# The options of a command are as stable as it is, unless they say otherwise.
_stable, _beta = stable(since="0.1"), beta(since="0.1")
for _name, _command, _kind in (
    ("serve", _stable(serve), OverridableCommand),
    ("run", _stable(run), None),
    ("route", _beta(route), PassedOnCommand),
    ("explain", _beta(explain), None),
    ("replay", _beta(replay), None),
    ("doctor", _beta(doctor), None),
    ("env", _stable(env), None),
):
    app.command(_name, cls=_kind, short_help=_short_help(_command))(_command)


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

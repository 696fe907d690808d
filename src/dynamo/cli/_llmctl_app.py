"""The `llmctl` command: tell the frontends which endpoints answer for which models.

What it adds stands in discovery without a lease: it stays until it is removed, whatever becomes of the workers.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, NoReturn, TypeVar

import typer

from dynamo._core.address import EndpointId, check_name
from dynamo._core.errors import ConfigError, DynamoError, InvalidArgument
from dynamo._core.exit_status import FAILED, USAGE
from dynamo.cli._llmctl_store import Store, with_store
from dynamo.llm._registration import PUBLIC_NAMESPACE, Kind, Registration

T = TypeVar("T")

FORMS = "Format should be 'component.endpoint' or 'namespace.component.endpoint'"
HEADINGS = ("MODEL TYPE", "MODEL NAME", "NAMESPACE", "COMPONENT", "ENDPOINT")

_KIND = re.compile(r"(chat|completion)(s|-models?)?", re.IGNORECASE)


def _kind(word: str) -> Kind:
    match = _KIND.fullmatch(word)
    if match is None:
        raise typer.BadParameter(f"{word!r} is neither 'chat' nor 'completion'.")
    return next(kind for kind in Kind if kind.word == match[1].lower())


def _complete_kind() -> list[str]:
    return [kind.word for kind in Kind]


_KIND_HELP = "The requests that it answers; chat-model, chat-models and so on are understood, too."
KindArgument = Annotated[
    Kind,
    typer.Argument(metavar="chat|completion", parser=_kind, autocompletion=_complete_kind, help=_KIND_HELP),
]
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="What requests call the model.")]

app = typer.Typer(
    name="llmctl",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
http = typer.Typer(no_args_is_help=True, help="The models that HTTP frontends serve.")
app.add_typer(http, name="http")


@app.callback()
def llmctl(
    ctx: typer.Context,
    public_namespace: Annotated[
        str, typer.Option("--public-namespace", "-n", help="The namespace of the frontends that are meant.")
    ] = PUBLIC_NAMESPACE,
) -> None:
    """Say which endpoints answer for which models, where workers do not register themselves.

    Frontends follow what is registered in the namespace "public", or in that of their --namespace, and are
    found through DYN_DISCOVERY. What is added stays until it is removed.
    """
    _checked(lambda: check_name("namespace", public_namespace))
    ctx.obj = public_namespace


@http.command("add")
def add(
    ctx: typer.Context,
    kind: KindArgument,
    model: ModelArgument,
    endpoint: Annotated[
        str,
        typer.Argument(
            metavar="ENDPOINT",
            help="Who answers: NAMESPACE.COMPONENT.ENDPOINT, or COMPONENT.ENDPOINT of the public namespace. It is "
            "sent the body of the OpenAI request, with stream: true, and yields chunks.",
        ),
    ],
) -> None:
    """Let an endpoint answer for a model.

    One that is registered at another endpoint is left as it is, and the exit status is 1.
    """
    public_namespace: str = ctx.obj
    registration = Registration(_model(model), kind, _endpoint(endpoint, public_namespace))
    if endpoint.count(".") == 1:
        typer.echo(f"Using the public namespace: {public_namespace} for model: {model}")

    async def work(store: Store) -> tuple[Registration | None, bool]:
        return await store.add(registration), await store.is_served(registration.endpoint)

    before, is_served = _run(public_namespace, work)
    if before is not None and before.endpoint != registration.endpoint:
        typer.echo(_table([before]))
        _fail(f"{kind.word} model {model} already exists, please remove it before changing the endpoint.", FAILED)
    typer.echo(
        f"Added new {kind.word} model {model}" if before is None else f"{kind.word} model {model} already exists"
    )
    typer.echo(_table([registration]))
    if not is_served:
        typer.echo(
            f"note: nobody serves {registration.endpoint} now; the model can be asked once somebody does", err=True
        )


@http.command("list")
def list_models(
    ctx: typer.Context,
    kind: Annotated[
        Kind | None,
        typer.Argument(metavar="chat|completion", parser=_kind, autocompletion=_complete_kind, help="Only these."),
    ] = None,
) -> None:
    """Show what is registered."""
    public_namespace: str = ctx.obj
    registrations = _run(public_namespace, lambda store: store.all(kind))
    which = "" if kind is None else f"{kind.word} "
    if not registrations:
        typer.echo(f"No {which}models found in the public namespace: {public_namespace}")
        return
    typer.echo(f"Listing all {which}models in the public namespace: {public_namespace}")
    typer.echo(_table(registrations))


@http.command("remove")
def remove(ctx: typer.Context, kind: KindArgument, model: ModelArgument) -> None:
    """Take a model back. One that is not registered is no error."""
    public_namespace: str = ctx.obj
    name = _model(model)
    _run(public_namespace, lambda store: store.remove(kind, name))
    typer.echo(f"{kind.word} model {model} removed from the public namespace: {public_namespace}")


def _model(name: str) -> str:
    if name.startswith("/"):
        _fail(f"Model name '{name}' cannot start with a slash", USAGE)
    _checked(lambda: check_name("model name", name))
    return name


def _endpoint(name: str, public_namespace: str) -> EndpointId:
    parts = name.removeprefix("dyn://").split(".")
    if not 2 <= len(parts) <= 3:
        _fail(f"Endpoint name '{name}' is too {'short' if len(parts) < 2 else 'long'}. {FORMS}", USAGE)
    return _checked(lambda: EndpointId(*(parts if len(parts) == 3 else (public_namespace, *parts))))


def _checked(make: Callable[[], T]) -> T:
    try:
        return make()
    except InvalidArgument as error:
        _fail(error.message, USAGE)


def _run(public_namespace: str, work: Callable[[Store], Awaitable[T]]) -> T:
    try:
        return with_store(public_namespace, os.environ, work)
    except DynamoError as error:
        _fail(error.message, USAGE if isinstance(error, ConfigError) else FAILED)


def _fail(message: str, status: int) -> NoReturn:
    sys.stderr.write(f"error: {message}\n")
    raise typer.Exit(status)


def _table(registrations: list[Registration]) -> str:
    rows = [HEADINGS, *map(_row, registrations)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = "+".join(["", *("-" * (width + 2) for width in widths), ""])
    lines = [
        "|".join(["", *(f" {cell:<{width}} " for cell, width in zip(row, widths, strict=True)), ""]) for row in rows
    ]
    return "\n".join([rule, lines[0], rule, *lines[1:], rule])


def _row(registration: Registration) -> tuple[str, str, str, str, str]:
    at = registration.endpoint
    return registration.kind.word, registration.model, at.namespace, at.component, at.endpoint

"""`dynamo route`: the routers of the frontend in front of OpenAI servers that know nothing of us."""

from __future__ import annotations

import typer
from typer.core import TyperCommand


class PassedOnCommand(TyperCommand):
    """A command whose options are read by what it starts: each is declared there, and only there."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        ctx.args = list(args)
        return ctx.args


def route(ctx: typer.Context) -> None:
    """Route requests to OpenAI servers that run already: `dynamo route --backend URL --backend URL ...`.

    The servers, such as vLLM, SGLang and llama.cpp, need nothing of ours. Each request goes where the KV cache of its
    prompt is, and where there is the least to do. `dynamo route --help` has every option.
    """
    from dynamo.frontend._route.command import main

    raise typer.Exit(main(ctx.args))

"""`dynamo explain`: why requests went where they went, as a running frontend tells it."""

from __future__ import annotations

from typing import Annotated

import typer

URL = "http://127.0.0.1:8000"


def explain(
    request_id: Annotated[
        str | None,
        typer.Argument(
            metavar="REQUEST_ID", help="As in the header x-request-id of the answer. Without one: the last requests."
        ),
    ] = None,
    url: Annotated[str, typer.Option(envvar="DYN_FRONTEND_URL", help="Where the frontend listens.")] = URL,
    limit: Annotated[int, typer.Option(min=1, max=100, help="So many of the last requests are shown.")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print what the frontend tells, as JSON.")] = False,
) -> None:
    """Show why a request went to its worker: the candidates, what each would have cost, and why the others lost.

    Without a REQUEST_ID it shows the last requests, one in a line, and warns if routing does not help. Decisions are
    kept for the last requests of each model, unless its workers are asked in turn.

    The exit status is 1 if no frontend answers, or none knows the request.
    """
    from dynamo._core.errors import DynamoError
    from dynamo._core.exit_status import FAILED
    from dynamo.cli._explain_text import ask, explained, listed, path_of
    from dynamo.runtime._process import failed

    try:
        answer = ask(url, f"/v1/explain?limit={limit}" if request_id is None else path_of(request_id))
        text = answer.decode() if as_json else listed(answer) if request_id is None else explained(answer)
    except DynamoError as error:
        raise typer.Exit(failed(error, FAILED)) from None
    typer.echo(text)

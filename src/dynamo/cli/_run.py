"""`dynamo run`: one process that answers, and whoever asks it. What it does is imported when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

HTTP_PORT = 8080
CONCURRENCY = 16
CONCURRENCY_MAX = 4096
WAIT_S = 30.0
REQUEST_TIMEOUT_S = 600.0

_TEXT = "in=text and in=batch"
_HTTP = "in=http"
_BATCH = "in=batch"
_ENGINE = "out=echo and out=transformers"
_ECHO = "out=echo"
_TRANSFORMERS = "out=transformers"

#: The parameters that are options of an engine: they are checked, and have their defaults, where it is.
ENGINE_OPTIONS = (
    "context_length", "custom_jinja_template", "max_num_seqs", "token_delay_s", "tokens_per_second", "device",
    "dtype", "num_threads", "seed",
)  # fmt: skip


def run(
    ctx: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="in=WHO_ASKS out=WHO_ANSWERS MODEL",
            help="In any order. in= is text (default), http, batch:FILE.jsonl or dyn://NAMESPACE.COMPONENT.ENDPOINT. "
            "out= is echo, transformers (default if there is a MODEL), dyn, or dyn://NAMESPACE.COMPONENT.ENDPOINT. "
            "MODEL is a directory, or a name on the hub.",
            show_default=False,
        ),
    ] = None,
    model_name: Annotated[
        str | None,
        typer.Option(
            envvar="DYN_MODEL_NAME",
            help="What requests call the model; without it, the name in MODEL. With out=dyn: the model to ask.",
        ),
    ] = None,
    wait_s: Annotated[
        float, typer.Option(min=0, max=86400, help="Seconds to wait for a worker, with out=dyn.")
    ] = WAIT_S,
    request_timeout_s: Annotated[
        float,
        typer.Option(
            envvar="DYN_REQUEST_TIMEOUT_S",
            min=0.001,
            max=86400,
            help="Seconds in which a request must be answered completely.",
        ),
    ] = REQUEST_TIMEOUT_S,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest answer in tokens.", rich_help_panel=_TEXT)
    ] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2, help="0 is greedy.", rich_help_panel=_TEXT)] = None,
    http_host: Annotated[
        str, typer.Option(envvar="DYN_HTTP_HOST", help="Address to listen on.", rich_help_panel=_HTTP)
    ] = "127.0.0.1",
    http_port: Annotated[
        int,
        typer.Option(
            envvar="DYN_HTTP_PORT",
            min=0,
            max=65535,
            help="Port to listen on; 0 picks a free one.",
            rich_help_panel=_HTTP,
        ),
    ] = HTTP_PORT,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure",
            envvar="DYN_INSECURE",
            help="Allow an address that other machines reach, although nobody is asked for credentials.",
            rich_help_panel=_HTTP,
        ),
    ] = False,
    router_mode: Annotated[
        str | None,
        typer.Option(
            envvar="DYN_ROUTER_MODE",
            help="How the worker of a request is found, with out=dyn: round-robin (default), random, power-of-two, "
            "least-loaded, device-aware-weighted, direct or kv. The options of kv are variables, DYN_ROUTER_...: "
            "python -m dynamo.frontend --help has them.",
            rich_help_panel=_HTTP,
        ),
    ] = None,
    concurrency: Annotated[
        int,
        typer.Option(min=1, max=CONCURRENCY_MAX, help="Requests that run at a time.", rich_help_panel=_BATCH),
    ] = CONCURRENCY,
    output: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False, help="File for the results, FILE-output.jsonl unless given.", rich_help_panel=_BATCH
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite the file for the results.", rich_help_panel=_BATCH)
    ] = False,
    context_length: Annotated[
        int | None,
        typer.Option(
            envvar="DYN_CONTEXT_LENGTH",
            help="Longest prompt and output together, if less than the model's.",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    custom_jinja_template: Annotated[
        str | None,
        typer.Option(
            envvar="DYN_CUSTOM_JINJA_TEMPLATE",
            help="File of a chat template to use instead of the model's.",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    max_num_seqs: Annotated[
        int | None,
        typer.Option(
            envvar="DYN_MAX_NUM_SEQS",
            help="Requests that the engine runs at a time; more wait.",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    token_delay_s: Annotated[
        float | None, typer.Option(envvar="DYN_TOKEN_DELAY_S", help="Pause before each token.", rich_help_panel=_ECHO)
    ] = None,
    tokens_per_second: Annotated[
        float | None,
        typer.Option(
            envvar="DYN_TOKENS_PER_SECOND", help="Speed of one answer, instead of a pause.", rich_help_panel=_ECHO
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            envvar="DYN_DEVICE",
            help="Where the model runs: cuda, cuda:1, mps, cpu; auto (default) takes the first there is.",
            rich_help_panel=_TRANSFORMERS,
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            envvar="DYN_DTYPE",
            help="Numbers to compute with: float32, bfloat16, float16; auto (default): as in the files.",
            rich_help_panel=_TRANSFORMERS,
        ),
    ] = None,
    num_threads: Annotated[
        int | None,
        typer.Option(
            envvar="DYN_NUM_THREADS",
            help="Threads of a model on the CPU; without it, all cores but one.",
            rich_help_panel=_TRANSFORMERS,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            envvar="DYN_SEED",
            help="Makes requests without a seed reproducible, if they come in the same order.",
            rich_help_panel=_TRANSFORMERS,
        ),
    ] = None,
) -> None:
    """Run a model in one process, and ask it: `dynamo run MODEL`.

    For example: `dynamo run ./my-model` to chat, `dynamo run in=http out=echo ./my-model` to serve without weights.

    **Who asks.** in=text is a chat: Ctrl-C stops an answer, Ctrl-D leaves; if something is piped in, it is the
    one prompt, and the answer is printed. in=http serves the OpenAI API until Ctrl-C. in=batch:FILE.jsonl answers
    each line of a file, {"text": ...}, {"messages": [...]} or {"prompt": ...} with the other fields of an OpenAI
    request, and writes the results in the same order. in=dyn://NAMESPACE.COMPONENT.ENDPOINT makes this process a
    worker, as `python -m dynamo.echo` or `python -m dynamo.transformers` do.

    **Who answers.** out=transformers runs MODEL in this process; out=echo says prompts back and needs only the
    tokenizer of MODEL. out=dyn asks the workers that are found through discovery (DYN_DISCOVERY), and
    out=dyn://NAMESPACE.COMPONENT.ENDPOINT those at one endpoint. COMPONENT is backend and ENDPOINT generate where
    they are left out.

    The exit status is 0 after an orderly end, 1 after a failure, 2 if the command line is wrong and 130 after
    Ctrl-C before the work was done.
    """
    from dynamo.cli._run_options import RunOptions
    from dynamo.cli._run_start import start

    given = {name for name in ctx.params if _is_given(ctx, name)}
    options = RunOptions(
        model_name=model_name,
        wait_s=wait_s,
        request_timeout_s=request_timeout_s,
        max_tokens=max_tokens,
        temperature=temperature,
        http_host=http_host,
        http_port=http_port,
        insecure=insecure,
        router_mode=router_mode,
        concurrency=concurrency,
        output=output,
        force=force,
        engine={name: ctx.params[name] for name in ENGINE_OPTIONS if name in given},
        given=frozenset(given),
    )
    raise typer.Exit(start(words or [], options))


def _is_given(ctx: typer.Context, name: str) -> bool:
    """Whether the command line itself says it."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"

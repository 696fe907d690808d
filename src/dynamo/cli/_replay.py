"""`dynamo replay`: which router would have served a trace how well. What it does is imported when it is called."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

NUM_WORKERS = 4
NUM_REQUESTS = 1000
NUM_REQUESTS_MAX = 1_000_000
ROUTER_MODES = "kv,round-robin,least-loaded"
TRACE_BLOCK_SIZE = 512
MAX_CONTEXT_LENGTH = 131072

_ENGINE = "The simulated engines"


class Synthetic(enum.StrEnum):
    """Traces that are made up."""

    conversation = "conversation"
    toolagent = "toolagent"
    no_reuse = "no-reuse"
    shared_system_prompt = "shared-system-prompt"


def replay(
    traces: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="TRACE",
            help="Files of a trace, as Mooncake's are or as the frontend writes them with --request-trace.",
            show_default=False,
        ),
    ] = None,
    synthetic: Annotated[
        Synthetic | None,
        typer.Option(help="Replay a trace that is made up, in place of files: with published statistics, or extreme."),
    ] = None,
    num_requests: Annotated[
        int, typer.Option(min=1, max=NUM_REQUESTS_MAX, help="Requests of a trace that is made up.")
    ] = NUM_REQUESTS,
    seed: Annotated[int, typer.Option(help="Where what is drawn begins: the same seed gives the same figures.")] = 0,
    router_mode: Annotated[
        str,
        typer.Option(
            metavar="POLICIES",
            help="Policies to compare, with commas between them: router modes; oracle, the KV router if it saw all "
            "caches; most-cached, which sees them and nothing else; MODULE:FUNCTION for a policy of your own.",
        ),
    ] = ROUTER_MODES,
    kv_router_config: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="Options of the KV router, by their names in KvRouterConfig."),
    ] = None,
    event_delay_ms: Annotated[
        float, typer.Option(min=0, help="What workers say of their caches is heard after so many milliseconds.")
    ] = 5.0,
    num_workers: Annotated[int, typer.Option(min=1, max=1024, help="Simulated workers.")] = NUM_WORKERS,
    arrival_speedup_ratio: Annotated[
        float, typer.Option(min=0.001, help="Requests come so many times faster than in the trace.")
    ] = 1.0,
    replay_concurrency: Annotated[
        int | None,
        typer.Option(min=1, help="Keep so many requests running, whenever they came in the trace."),
    ] = None,
    trace_block_size: Annotated[
        int, typer.Option(min=1, help="Tokens that each of the trace's hash ids stands for, where a line says nothing.")
    ] = TRACE_BLOCK_SIZE,
    sla_ttft_ms: Annotated[
        float, typer.Option(min=0.001, help="A good request has its first token within so many milliseconds.")
    ] = 2000.0,
    sla_itl_ms: Annotated[
        float,
        typer.Option(min=0.001, help="A good request has its tokens at most so many milliseconds apart, on average."),
    ] = 50.0,
    report: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Write the report, too: FILE.html for people, FILE.json for programs."),
    ] = None,
    block_size: Annotated[
        int, typer.Option(min=1, help="Tokens in a block of the KV cache.", rich_help_panel=_ENGINE)
    ] = 64,
    num_gpu_blocks: Annotated[
        int, typer.Option(min=1, help="Blocks of the KV cache of each worker.", rich_help_panel=_ENGINE)
    ] = 16384,
    max_num_seqs: Annotated[
        int, typer.Option(min=1, help="Requests that run at a time; more wait.", rich_help_panel=_ENGINE)
    ] = 256,
    max_num_batched_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens that one step computes.", rich_help_panel=_ENGINE)
    ] = 8192,
    max_context_length: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Tokens of a prompt and its answer; without it 131072, or fewer if the blocks do not hold so many.",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    speedup_ratio: Annotated[
        float,
        typer.Option(min=0.001, help="So many times faster than an 8B model on an H100.", rich_help_panel=_ENGINE),
    ] = 1.0,
) -> None:
    """Replay a trace of requests against the router, with simulated workers, and compare policies.

    Nothing is served and nothing is waited for: the router, the KV events and the runtime are the real ones, the
    engines are simulated, and the clock is virtual, so an hour passes in minutes or less.

    For example: `dynamo replay --synthetic conversation --num-workers 8 --report page.html`.

    The exit status is 0, 1 after a failure, also of single requests, 2 if the command line is wrong and 130 after
    Ctrl-C, which shows what there is.
    """
    from dynamo._core.errors import ConfigError
    from dynamo.cli._replay_run import Wanted, run_replay
    from dynamo.mocker import MockerConfig
    from dynamo.replay import STREAM_INTERVAL, Goals, ReplayConfig

    try:
        config = ReplayConfig(
            num_workers=num_workers,
            engine=MockerConfig(
                block_size=block_size,
                num_gpu_blocks=num_gpu_blocks,
                max_num_seqs=max_num_seqs,
                max_num_batched_tokens=max_num_batched_tokens,
                max_context_length=max_context_length or min(MAX_CONTEXT_LENGTH, num_gpu_blocks * block_size),
                speedup_ratio=speedup_ratio,
                stream_interval=STREAM_INTERVAL,
            ),
            arrival_speedup_ratio=arrival_speedup_ratio,
            replay_concurrency=replay_concurrency,
            event_delay_s=event_delay_ms / 1000,
            goals=Goals(sla_ttft_ms / 1000, sla_itl_ms / 1000),
            seed=seed,
        )
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from error
    wanted = Wanted(
        traces=traces or [],
        synthetic=None if synthetic is None else synthetic.value,
        num_requests=num_requests,
        policies=router_mode.split(","),
        kv_router_config=kv_router_config,
        trace_block_size=trace_block_size,
        reports=report or [],
    )
    raise typer.Exit(run_replay(wanted, config))

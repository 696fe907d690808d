"""`dynamo run in=http`: the OpenAI frontend and whoever answers, until a signal comes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack

from dynamo.cli._run_options import RunOptions
from dynamo.entrypoint._answering import Answering
from dynamo.entrypoint._http import HttpInput
from dynamo.frontend._config import FrontendConfig
from dynamo.runtime._process import settle
from dynamo.runtime._settings import read_settings
from dynamo.runtime._signals import ending_on_signals


def frontend_config(answering: Answering, options: RunOptions, environ: Mapping[str, str]) -> FrontendConfig:
    """Return the settings of the frontend: ours, then its variables. Raises `ConfigError` for one that is wrong."""
    flags = [
        f"--http-host={options.http_host}",
        f"--http-port={options.http_port}",
        f"--request-timeout-s={options.request_timeout_s}",
        *(["--insecure"] if options.insecure else []),
        *([] if options.router_mode is None else [f"--router-mode={options.router_mode}"]),
    ]
    others = {name: value for name, value in environ.items() if name != "DYN_NAMESPACE"}
    if answering.namespace is not None:
        flags.append(f"--namespace={answering.namespace}")
    return read_settings(FrontendConfig, flags, others, prog="dynamo run in=http", description="")


async def serve_http(answering: Answering, config: FrontendConfig) -> int:
    """Listen, have the engine started, and serve; a signal ends it in order."""
    http = HttpInput(answering, config, _say)
    async with answering.runtime() as runtime, AsyncExitStack() as parts:
        # Nothing is served yet: a signal ends the loading at once.
        with ending_on_signals(runtime):
            ended = await parts.enter_async_context(http.listening(runtime))
        with ending_on_signals(runtime, within_s=config.drain_s):
            settle()
            await http.serve(ended, runtime.wait_for_shutdown)
            await parts.aclose()
    return 0


def _say(line: str) -> None:
    print(line, flush=True)

"""`dynamo run in=http`: the OpenAI frontend and whoever answers, until a signal comes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack

from dynamo._core.errors import NoInstances
from dynamo.cli._run_options import RunOptions
from dynamo.cli._run_outputs import Answering, until_ended
from dynamo.frontend._config import FrontendConfig
from dynamo.frontend._serving import FrontendServer
from dynamo.runtime import DistributedRuntime
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
    server = FrontendServer(config)
    async with answering.runtime() as runtime, AsyncExitStack() as parts:
        # Nothing is served yet: a signal ends the loading at once.
        with ending_on_signals(runtime):
            url = await server.start(runtime)
            parts.push_async_callback(server.stop)
            _say(f"listening on {url}")
            ended = await parts.enter_async_context(answering.serving(runtime))
        with ending_on_signals(runtime, within_s=config.drain_s):
            settle()
            patience_s = answering.ready_timeout_s if answering.is_here else None
            await until_ended(ended, _until_shutdown(runtime, server, url, patience_s))
            _say(f"shutting down; running requests get up to {config.drain_s:g} s")
            # The engine ends after them.
            await server.stop()
    return 0


async def _until_shutdown(
    runtime: DistributedRuntime, server: FrontendServer, url: str, patience_s: float | None
) -> None:
    announcing = asyncio.ensure_future(_announce(server, url, patience_s))
    asked = asyncio.ensure_future(runtime.wait_for_shutdown())
    try:
        await asyncio.wait([announcing, asked], return_when=asyncio.FIRST_COMPLETED)
        if announcing.done():
            announcing.result()
        await asked
    finally:
        announcing.cancel()
        asked.cancel()
        await asyncio.gather(announcing, asked, return_exceptions=True)


async def _announce(server: FrontendServer, url: str, patience_s: float | None) -> None:
    try:
        async with asyncio.timeout(patience_s):
            names = await server.wait_ready()
    except TimeoutError:
        raise NoInstances(f"the model was not ready within {patience_s:g} s; the log above says why") from None
    _say(f"ready: serving {', '.join(names)} at {url}")


def _say(line: str) -> None:
    print(line, flush=True)

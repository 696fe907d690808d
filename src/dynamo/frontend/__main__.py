"""`python -m dynamo.frontend`: the OpenAI API for every model that workers register."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys

import uvloop

from dynamo._core.errors import ConfigError, DynamoError
from dynamo.frontend._config import FrontendConfig
from dynamo.frontend._serving import FrontendServer
from dynamo.runtime import DistributedRuntime
from dynamo.runtime._health import HealthKind
from dynamo.runtime._logging import set_up_logging
from dynamo.runtime._process import settle
from dynamo.runtime._settings import USAGE, read_settings
from dynamo.runtime._signals import ending_on_signals


async def run(config: FrontendConfig) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends the process at once."""
    runtime = DistributedRuntime(
        discovery=config.discovery, request_plane=config.request_plane, event_plane=config.event_plane
    )
    with ending_on_signals(runtime, within_s=config.drain_s):
        async with runtime:
            await _serve(config, runtime)


async def _serve(config: FrontendConfig, runtime: DistributedRuntime) -> None:
    server = FrontendServer(config)
    _say(f"listening on {await server.start(runtime)}")
    runtime.set_health_status(ready=True)
    runtime.health.add(HealthKind.READINESS, "frontend", server.is_ready)
    settle()
    announcing = asyncio.create_task(_announce(server))
    try:
        await runtime.wait_for_shutdown()
        _say(f"shutting down; running requests get up to {config.drain_s:g} s")
    finally:
        announcing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await announcing
        await server.stop()


async def _announce(server: FrontendServer) -> None:
    _say(f"ready: serving {', '.join(await server.wait_ready())}")


def _say(line: str) -> None:
    print(line, flush=True)


def main(arguments: list[str]) -> int:
    """Run the command; return its exit status. What the user got wrong is one line on stderr."""
    try:
        config = read_settings(
            FrontendConfig,
            arguments,
            os.environ,
            prog="python -m dynamo.frontend",
            description="Serve the OpenAI API for every model that workers register.",
        )
        set_up_logging(os.environ)
    except ConfigError as error:
        return _failed(error, USAGE)
    try:
        uvloop.run(run(config))
    except DynamoError as error:
        return _failed(error, 1)
    return 0


def _failed(error: DynamoError, status: int) -> int:
    sys.stderr.write(f"error: {error}\n")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`dynamo route`: from its command line to its exit status."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import uvloop

from dynamo._core.errors import ConfigError, DynamoError, NotFound
from dynamo.frontend._route.config import RouteConfig, read_config
from dynamo.runtime import DistributedRuntime
from dynamo.runtime._logging import set_up_logging
from dynamo.runtime._process import settle
from dynamo.runtime._settings import USAGE
from dynamo.runtime._signals import ending_on_signals

if TYPE_CHECKING:
    from dynamo.frontend._route.serving import RouteServer


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit status. What the user got wrong is one line on stderr."""
    try:
        config = read_config(arguments, os.environ)
        set_up_logging(os.environ)
    except ConfigError as error:
        return _failed(error, USAGE)
    try:
        uvloop.run(run(config))
    except NotFound as error:
        return _failed(error, USAGE)  # the directory of the model
    except DynamoError as error:
        return _failed(error, 1)
    return 0


async def run(config: RouteConfig) -> None:
    """Route until SIGTERM or SIGINT, then drain; a second signal ends the process at once."""
    # Nobody else is in this system: the servers know nothing of it.
    runtime = DistributedRuntime(discovery="memory:", request_plane="inproc:", event_plane="inproc:")
    with ending_on_signals(runtime, within_s=config.drain_s):
        async with runtime:
            await _serve(config, runtime)


async def _serve(config: RouteConfig, runtime: DistributedRuntime) -> None:
    server = _server(config)
    _say(f"listening on {await server.start(runtime)}")
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


def _server(config: RouteConfig) -> RouteServer:
    try:
        from dynamo.frontend._route.serving import RouteServer
    except ModuleNotFoundError as error:
        raise ConfigError(f"dynamo route needs {error.name}: install dynamo-serve[route]") from error
    return RouteServer(config)


async def _announce(server: RouteServer) -> None:
    models = await server.wait_ready()
    num_well = sum(one.is_well for one in server.backends)
    _say(f"ready: {num_well} of {len(server.backends)} backends answer, and list {', '.join(models) or 'no model'}")


def _say(line: str) -> None:
    print(line, flush=True)


def _failed(error: DynamoError, status: int) -> int:
    sys.stderr.write(f"error: {error}\n")
    return status

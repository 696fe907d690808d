"""`dynamo route`: from its command line to its exit status."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import uvloop

from dynamo._core.errors import ConfigError, DynamoError, NotFound
from dynamo._core.exit_status import FAILED, OK, USAGE
from dynamo.frontend._route.config import RouteConfig, read_config
from dynamo.frontend._until_shutdown import say, serve_until_shutdown
from dynamo.runtime import DistributedRuntime
from dynamo.runtime._logging import set_up_logging
from dynamo.runtime._process import failed
from dynamo.runtime._signals import ending_on_signals

if TYPE_CHECKING:
    from dynamo.frontend._route.serving import RouteServer


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit status. What the user got wrong is one line on stderr."""
    try:
        config = read_config(arguments, os.environ)
        set_up_logging(os.environ)
    except ConfigError as error:
        return failed(error, USAGE)
    try:
        uvloop.run(run(config))
    except NotFound as error:
        return failed(error, USAGE)  # the directory of the model
    except DynamoError as error:
        return failed(error, FAILED)
    return OK


async def run(config: RouteConfig) -> None:
    """Route until SIGTERM or SIGINT, then drain; a second signal ends the process at once."""
    # Nobody else is in this system: the servers know nothing of it.
    runtime = DistributedRuntime(discovery="memory:", request_plane="inproc:", event_plane="inproc:")
    with ending_on_signals(runtime, within_s=config.drain_s):
        async with runtime:
            await _serve(config, runtime)


async def _serve(config: RouteConfig, runtime: DistributedRuntime) -> None:
    server = _server(config)
    say(f"listening on {await server.start(runtime)}")

    async def ready() -> str:
        models = await server.wait_ready()
        num_well = sum(one.is_well for one in server.backends)
        return f"{num_well} of {len(server.backends)} backends answer, and list {', '.join(models) or 'no model'}"

    await serve_until_shutdown(server, runtime, drain_s=config.drain_s, ready=ready)


def _server(config: RouteConfig) -> RouteServer:
    try:
        from dynamo.frontend._route.serving import RouteServer
    except ModuleNotFoundError as error:
        raise ConfigError(f"dynamo route needs {error.name}: install dynamo-serve[route]") from error
    return RouteServer(config)

"""`python -m dynamo.frontend`: the OpenAI API for every model that workers register."""

from __future__ import annotations

import os
import signal
import sys

if __name__ == "__main__":  # until it listens, Ctrl-C ends it as SIGTERM does: without a traceback of what follows
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import uvloop

from dynamo._core.errors import ConfigError, DynamoError
from dynamo._core.exit_status import FAILED, OK, USAGE
from dynamo.frontend._config import FrontendConfig
from dynamo.frontend._serving import FrontendServer
from dynamo.frontend._until_shutdown import say, serve_until_shutdown
from dynamo.runtime import DistributedRuntime
from dynamo.runtime._health import HealthKind
from dynamo.runtime._logging import set_up_logging
from dynamo.runtime._process import failed
from dynamo.runtime._settings import read_settings
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
    say(f"listening on {await server.start(runtime)}")
    runtime.set_health_status(ready=True)
    runtime.health.add(HealthKind.READINESS, "frontend", server.is_ready)

    async def ready() -> str:
        return f"serving {', '.join(await server.wait_ready())}"

    await serve_until_shutdown(server, runtime, drain_s=config.drain_s, ready=ready)


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
        return failed(error, USAGE)
    try:
        uvloop.run(run(config))
    except DynamoError as error:
        return failed(error, FAILED)
    return OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

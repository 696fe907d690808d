"""`python -m dynamo.router`: the KV router as a process of its own, which frontends and clients share."""

from __future__ import annotations

import os
import signal
import sys

if __name__ == "__main__":  # until it listens, Ctrl-C ends it as SIGTERM does: without a traceback of what follows
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from dynamo._core.errors import ConfigError, DynamoError
from dynamo._core.exit_status import FAILED, OK, USAGE
from dynamo.router._config import RouterOptions
from dynamo.runtime import DistributedRuntime
from dynamo.runtime._logging import set_up_logging
from dynamo.runtime._process import failed
from dynamo.runtime._settings import read_settings
from dynamo.runtime._signals import ending_on_signals


async def run(options: RouterOptions) -> None:
    """Route until SIGTERM or SIGINT, then drain; a second signal ends the process at once."""
    from dynamo.router._service import serve_router

    runtime = DistributedRuntime(
        discovery=options.discovery, request_plane=options.request_plane, event_plane=options.event_plane
    )
    with ending_on_signals(runtime):
        async with runtime:
            await serve_router(runtime, options)


def main(arguments: list[str]) -> int:
    """Run the router; return its exit status. What the user got wrong is one line on stderr."""
    try:
        options = read_settings(
            RouterOptions,
            arguments,
            os.environ,
            prog="python -m dynamo.router",
            description="Send requests to the worker that has their prompt's KV cache, for all who ask this router.",
        )
        set_up_logging(os.environ)
    except ConfigError as error:
        return failed(error, USAGE)
    import uvloop

    try:
        uvloop.run(run(options))
    except DynamoError as error:
        return failed(error, FAILED)
    return OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

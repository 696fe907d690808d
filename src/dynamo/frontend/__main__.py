"""`python -m dynamo.frontend`: flags, configuration, run."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys

import uvloop

from dynamo._core.errors import DynamoError
from dynamo.frontend._config import FrontendConfig, read_config
from dynamo.frontend._serving import FrontendServer
from dynamo.runtime import DistributedRuntime
from dynamo.runtime._process import settle
from dynamo.runtime._signals import ending_on_signals


async def run(config: FrontendConfig) -> None:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends the process at once."""
    async with DistributedRuntime(discovery=config.discovery, request_plane=config.request_plane) as runtime:
        with ending_on_signals(runtime, within_s=config.drain_s):
            await _serve(config, runtime)


async def _serve(config: FrontendConfig, runtime: DistributedRuntime) -> None:
    server = FrontendServer(config)
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


async def _announce(server: FrontendServer) -> None:
    _say(f"ready: serving {', '.join(await server.wait_ready())}")


def _say(line: str) -> None:
    print(line, flush=True)


def main() -> None:
    """Run the command. A setting that is wrong is one line, and exit status 1."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # What a client gets wrong is answered, not logged; uvicorn would say it per request.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    try:
        uvloop.run(run(read_config(sys.argv[1:], os.environ)))
    except DynamoError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()

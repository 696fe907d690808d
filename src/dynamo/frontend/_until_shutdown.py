"""What the commands that serve HTTP do between listening and their end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Protocol

from dynamo.runtime import DistributedRuntime
from dynamo.runtime._process import settle


class Stoppable(Protocol):
    async def stop(self) -> None:
        """Refuse new requests, let those that run finish, then close."""


def say(line: str) -> None:
    """Print a line that somebody may wait for."""
    print(line, flush=True)


async def serve_until_shutdown(
    server: Stoppable, runtime: DistributedRuntime, *, drain_s: float, ready: Callable[[], Awaitable[str]]
) -> None:
    """Say when the server is `ready`, in its own words, and stop it when the runtime shuts down."""
    settle()
    announcing = asyncio.create_task(_announce(ready))
    try:
        await runtime.wait_for_shutdown()
        say(f"shutting down; running requests get up to {drain_s:g} s")
    finally:
        announcing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await announcing
        await server.stop()


async def _announce(ready: Callable[[], Awaitable[str]]) -> None:
    say(f"ready: {await ready()}")

"""The canary: a request of our own, by which an endpoint shows that it still answers.

A process whose engine is stuck looks well from outside: it is connected, and says so. So when nothing has come out
of an endpoint for a while, its handler is called, here in the process, with a request that its owner chose. If no
item comes in time, the endpoint is not ready, and `/health` says why; the first item that comes out of it, be it
a caller's or the next canary's, makes it ready again. It does not go through discovery, so that it cannot tell of
anybody else, it takes no place of a caller's, and it has no say in whether the process lives.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

from dynamo._core import request_plane
from dynamo._core.context import Context
from dynamo._core.errors import ConfigError, DynamoError
from dynamo.runtime import _codec
from dynamo.runtime._blame import blame
from dynamo.runtime._measured import Measured

logger = logging.getLogger(__name__)

ENABLED_VARIABLE = "DYN_HEALTH_CHECK_ENABLED"
WAIT_VARIABLE, TIMEOUT_VARIABLE = "DYN_CANARY_WAIT_TIME", "DYN_HEALTH_CHECK_REQUEST_TIMEOUT"
#: An endpoint is asked after so long without an item, and has so long to answer.
WAIT_S = 10.0
TIMEOUT_S = 3.0
#: It is looked at so often within the time that it may be idle.
LOOKS_PER_WAIT = 10


@dataclass(frozen=True, slots=True)
class CanarySettings:
    """After how long without an item an endpoint is asked, and how long it has."""

    wait_s: float = WAIT_S
    timeout_s: float = TIMEOUT_S


def canary_settings(environ: Mapping[str, str]) -> CanarySettings | None:
    """Read the variables; None if canaries are turned off. Raises `ConfigError` if one is wrong."""
    from dynamo.runtime._settings import parse_bool  # with argparse, which most processes can spare

    enabled = environ.get(ENABLED_VARIABLE) or "true"
    try:
        if not parse_bool(enabled):
            return None
    except ValueError:
        raise ConfigError(f"{ENABLED_VARIABLE}={enabled!r} is not true or false", setting=ENABLED_VARIABLE) from None
    return CanarySettings(_seconds(environ, WAIT_VARIABLE, WAIT_S), _seconds(environ, TIMEOUT_VARIABLE, TIMEOUT_S))


def _seconds(environ: Mapping[str, str], variable: str, default_s: float) -> float:
    text = environ.get(variable) or str(default_s)
    try:
        time_s = float(text)
    except ValueError:
        time_s = math.nan
    if not 0 < time_s < math.inf:
        raise ConfigError(f"{variable}={text!r} is no time: give seconds, more than 0", setting=variable)
    return time_s


class Canary:
    """Asks one endpoint. `start`, then `cancel` when it closes, and `stop`."""

    def __init__(self, name: str, payload: bytes, measured: Measured, settings: CanarySettings) -> None:
        self._name = name
        self._payload = payload
        self._measured = measured
        self._settings = settings
        #: Why the endpoint is not ready; empty if it answers.
        self.complaint: str = ""
        # Whether an item came out since the last look.
        self._moved = False
        self._task: asyncio.Task[None] | None = None
        self._asking: asyncio.Task[None] | None = None

    def encode(self, item: object) -> bytes:
        """Encode an item for a caller, and note that it came out."""
        self._moved = True
        return _codec.encode(item)

    def start(self, serve: request_plane.Handler) -> None:
        """Look from now on; `serve` is how the endpoint is asked."""
        self._task = asyncio.create_task(self._run(serve), name=f"canary of {self._name}")

    def cancel(self) -> None:
        """Ask no more. A second call changes nothing."""
        for task in self._tasks():
            task.cancel()

    async def stop(self) -> None:
        """Ask no more, and wait until what was asked has ended."""
        self.cancel()
        if tasks := self._tasks():
            await asyncio.wait(tasks, timeout=self._settings.timeout_s)

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [task for task in (self._task, self._asking) if task is not None]

    async def _run(self, serve: request_plane.Handler) -> None:
        idle_looks = 0
        while True:
            await asyncio.sleep(self._settings.wait_s / LOOKS_PER_WAIT)
            idle_looks = 0 if self._moved else idle_looks + 1
            if self._moved:
                self._moved = False
                self._judge("")
            elif idle_looks >= LOOKS_PER_WAIT:
                idle_looks = 0
                self._judge(await self._ask(serve))
                self._moved = False

    async def _ask(self, serve: request_plane.Handler) -> str:
        """Send the canary. Return what is wrong, empty if nothing is."""
        if self._asking is None or self._asking.done():  # else the last one does not even end when it is told to
            self._measured.canaries += 1
            self._asking = asyncio.create_task(self._request(serve), name=f"request of the canary of {self._name}")
        asking = self._asking
        await asyncio.wait([asking], timeout=self._settings.timeout_s)
        if not asking.done() or asking.cancelled():
            asking.cancel()
            # Something may have come out for somebody else meanwhile.
            return "" if self._moved else f"gave no answer within {self._settings.timeout_s:g} s"
        error = asking.exception()
        return "" if error is None else f"failed: {blame(error)}"

    async def _request(self, serve: request_plane.Handler) -> None:
        context = Context(f"canary-{self._measured.canaries}")
        try:
            items = serve(self._payload, context)
            try:
                await anext(aiter(items), None)
            finally:
                context.kill()
                aclose = getattr(items, "aclose", None)
                if aclose is not None:
                    await aclose()
        except (SystemExit, KeyboardInterrupt) as error:  # it would end the loop
            raise DynamoError(f"{type(error).__name__}: {error}") from error

    def _judge(self, complaint: str) -> None:
        if complaint:
            self._measured.canary_failures += 1
        if bool(complaint) != bool(self.complaint):
            if complaint:
                logger.warning("%s is not ready: its canary %s", self._name, complaint)
            else:
                logger.info("%s is ready again", self._name)
        self.complaint = complaint

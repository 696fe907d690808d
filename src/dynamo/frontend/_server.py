"""Listening, and stopping without losing what runs.

Stopping has an order: readiness goes first, then new requests are refused, then what runs may finish,
and only then are connections closed.
"""

from __future__ import annotations

import asyncio
import socket
from typing import NamedTuple, Protocol

from starlette.types import Receive, Scope, Send

from dynamo._core.errors import ConfigError
from dynamo._core.loopback import is_loopback
from dynamo.frontend._active import ActiveRequests
from dynamo.frontend._cors import with_cors
from dynamo.runtime._http_protocol import HttpProtocol
from dynamo.runtime._http_server import HttpServer
from dynamo.runtime._listening import blames_host, fault_of, listen

CLOSE_TIMEOUT_S = 5.0
START_TIMEOUT_S = 10.0


class Spelling(NamedTuple):
    """What messages call the address, as whoever gave it wrote it."""

    host: str
    port: str
    insecure: str


ON_A_COMMAND_LINE = Spelling("--http-host ", "http_port (--http-port)", "add --insecure")
IN_PYTHON = Spelling("http_host=", "http_port", "give insecure=True")


def open_listener(host: str, port: int, *, insecure: bool, spelling: Spelling = ON_A_COMMAND_LINE) -> socket.socket:
    """Return a socket that listens on `host` and `port`; port 0 picks a free one."""
    named = f"{spelling.host}{host}"
    if not insecure and not is_loopback(host):
        if why := fault_of(host):
            raise ConfigError(f"{named}: {why}", setting="http_host")
        raise ConfigError(
            f"{named} is reachable from other machines, and there are no credentials to ask for: "
            f"{spelling.insecure} if the network around it is trusted, or leave the host at 127.0.0.1",
            setting="http_host",
        )
    try:
        return listen(host, port)
    except OSError as error:
        why = str(error.strerror or error)
        if blames_host(error):
            raise ConfigError(f"{named}: {why}", setting="http_host") from error
        raise ConfigError(
            f"cannot listen on {host}:{port}: {why}; choose another {spelling.port}", setting="http_port"
        ) from error


class DrainableApp(Protocol):
    """An ASGI application that knows what it is answering."""

    active: ActiveRequests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


class DrainingServer:
    """Serves an application on a socket that listens, from `start` to `stop`."""

    def __init__(
        self,
        app: DrainableApp,
        listener: socket.socket,
        *,
        keep_alive_s: float,
        cors_origins: tuple[str, ...] = (),
        protocol: type[HttpProtocol] = HttpProtocol,
    ) -> None:
        self._active = app.active
        self._http = HttpServer(
            with_cors(app, cors_origins), listener, is_ours=True, keep_alive_s=keep_alive_s, protocol=protocol
        )

    @property
    def url(self) -> str:
        """Where the server listens."""
        return self._http.url

    async def start(self) -> None:
        """Serve; return once requests are taken. A server that could not start is stopped."""
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._http.start()
        except BaseException as error:
            await self._http.stop(0.0)
            if isinstance(error, TimeoutError):
                raise ConfigError(f"the HTTP server did not start within {START_TIMEOUT_S:g} s") from error
            raise

    async def stop(self, drain_s: float) -> None:
        """Refuse new requests, give those that run `drain_s` to finish, then close. A second call waits."""
        try:
            await self._active.drain(drain_s)
        finally:
            await self._http.stop(CLOSE_TIMEOUT_S)

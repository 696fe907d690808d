"""Listening, and stopping without losing what runs.

Stopping has an order: readiness goes first, then new requests are refused, then what runs may finish,
and only then are connections closed.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from dynamo._core.errors import ConfigError
from dynamo._core.loopback import is_loopback
from dynamo.frontend._app import FrontendApp
from dynamo.runtime._http_protocol import HttpProtocol

BACKLOG = 2048
CLOSE_TIMEOUT_S = 5
START_TIMEOUT_S = 10.0

logger = logging.getLogger(__name__)


def bind(host: str, port: int, *, insecure: bool) -> socket.socket:
    """Return a socket bound to `host` and `port`; port 0 picks a free one."""
    if not insecure and not is_loopback(host):
        raise ConfigError(
            f"--http-host {host} is reachable from other machines, and there are no credentials to ask for: "
            "add --insecure if the network around it is trusted, or leave the host at 127.0.0.1",
            setting="http_host",
        )
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"--http-host {host}: {error.strerror or error}", setting="http_host") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another http_port (--http-port)",
            setting="http_port",
        ) from error
    return listener


class HttpServer:
    """Serves an application on a bound socket, from `start` to `stop`."""

    def __init__(
        self,
        app: FrontendApp,
        listener: socket.socket,
        *,
        keep_alive_s: float,
        protocol: type[HttpProtocol] = HttpProtocol,
    ) -> None:
        self._app = app
        self._listener = listener
        self._server = _Server(
            uvicorn.Config(
                app,
                http=protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                # What a client gets wrong is answered, not logged.
                log_level="error",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=max(1, round(keep_alive_s)),
                timeout_graceful_shutdown=CLOSE_TIMEOUT_S,
            )
        )
        self._serving: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where the server listens."""
        host, port = self._listener.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def start(self) -> None:
        """Serve; return once requests are taken."""
        self._serving = asyncio.get_running_loop().create_task(self._server.serve([self._listener]))
        listening = asyncio.ensure_future(self._server.listening.wait())
        try:
            await asyncio.wait([listening, self._serving], timeout=START_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            listening.cancel()
        if not self._server.listening.is_set():
            if self._serving.done():
                self._serving.result()
            raise ConfigError(f"the HTTP server did not start within {START_TIMEOUT_S:g} s")

    async def stop(self, drain_s: float) -> None:
        """Refuse new requests, give those that run `drain_s` to finish, then close. A second call waits."""
        try:
            await self._app.active.drain(drain_s)
        finally:
            self._server.should_exit = True
        if self._serving is not None:
            await self._serving


class _Server(uvicorn.Server):
    """uvicorn's server, as a part of a process that owns its signals itself."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

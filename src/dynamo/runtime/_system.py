"""The system server of a process: `/live`, `/health` and `/metrics`, for whoever watches it.

It is off unless `DYN_SYSTEM_PORT` is set (0 is a free port), or `DYNAMO_SYSTEM_APP_ENABLED` is true. What
serves HTTP is imported only then.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dynamo._core.errors import ConfigError
from dynamo._core.loopback import is_loopback
from dynamo.runtime._listening import blames_host, fault_of, listen

if TYPE_CHECKING:
    from dynamo.runtime._http_server import HttpServer
    from dynamo.runtime._runtime import DistributedRuntime

PORT_VARIABLE, HOST_VARIABLE, INSECURE_VARIABLE = "DYN_SYSTEM_PORT", "DYN_SYSTEM_HOST", "DYN_INSECURE"
#: What the variables were called before.
OLD_ENABLED, OLD_PORT, OLD_HOST = (f"DYNAMO_SYSTEM_APP_{name}" for name in ("ENABLED", "PORT", "HOST"))

HOST = "127.0.0.1"
#: Probes that run when the process ends may take so long.
DRAIN_S = 1.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SystemSettings:
    """Where the system server listens. Port 0 is one that is free."""

    host: str
    port: int
    insecure: bool = False


def system_settings(environ: Mapping[str, str]) -> SystemSettings | None:
    """Read the variables; None if the server is off. Raises `ConfigError` if one is wrong."""
    if text := environ.get(PORT_VARIABLE, ""):
        variable = PORT_VARIABLE
    elif _flag(environ, OLD_ENABLED):
        variable, text = OLD_PORT, environ.get(OLD_PORT) or "0"
    else:
        return None
    try:
        port = int(text)
    except ValueError:
        port = -2
    if not -1 <= port <= 65535:
        raise ConfigError(
            f"{variable}={text!r} is no port: use 0 for one that is free, 1 to 65535, or -1 for no system server",
            setting=variable,
        )
    host = environ.get(HOST_VARIABLE) or environ.get(OLD_HOST) or HOST
    return None if port == -1 else SystemSettings(host, port, _flag(environ, INSECURE_VARIABLE))


class SystemServer:
    """Answers for one runtime. `start`, then `stop`."""

    def __init__(self, runtime: DistributedRuntime, settings: SystemSettings) -> None:
        self._runtime = runtime
        self._settings = settings
        self._http: HttpServer | None = None
        self._socket: socket.socket | None = None

    @property
    def url(self) -> str | None:
        """Where it listens; None before it does."""
        return None if self._http is None else self._http.url

    async def start(self) -> None:
        """Return when it answers. Raises `ConfigError` for an address that cannot or must not be listened on."""
        self._socket = _listen(self._settings)
        from dynamo.runtime._http_server import HttpServer
        from dynamo.runtime._system_app import build_system_app

        self._http = HttpServer(build_system_app(self._runtime), self._socket, is_ours=True)
        await self._http.start()
        logger.info("system server at %s", self._http.url)

    async def stop(self) -> None:
        """Answer no more. A second call waits for the first."""
        if self._http is not None:
            await self._http.stop(DRAIN_S)
        if self._socket is not None:
            self._socket.close()


def _listen(settings: SystemSettings) -> socket.socket:
    host, port = settings.host, settings.port
    if not settings.insecure and not is_loopback(host):
        if why := fault_of(host):
            raise ConfigError(f"{HOST_VARIABLE}={host}: {why}", setting=HOST_VARIABLE)
        raise ConfigError(
            f"the system server would listen on {host}, which other machines reach, and nobody is asked for "
            f"credentials: set {INSECURE_VARIABLE}=true if the network around it is trusted, or leave "
            f"{HOST_VARIABLE} at {HOST}",
            setting=HOST_VARIABLE,
        )
    try:
        return listen(host, port)
    except OSError as error:
        why = str(error.strerror or error)
        if blames_host(error):
            raise ConfigError(f"{HOST_VARIABLE}={host}: {why}", setting=HOST_VARIABLE) from error
        raise ConfigError(
            f"the system server cannot listen on {host}:{port}: {why}. Every process has one of its own: set "
            f"{PORT_VARIABLE}=0, which takes a free port for each, or run a single worker with --service-name",
            setting=PORT_VARIABLE,
        ) from error


def _flag(environ: Mapping[str, str], variable: str) -> bool:
    from dynamo.runtime._settings import parse_bool  # with argparse, which a process that asks for nothing can spare

    text = environ.get(variable, "")
    try:
        return bool(text) and parse_bool(text)
    except ValueError:
        raise ConfigError(f"{variable}={text!r} is not true or false: use 1 or 0", setting=variable) from None

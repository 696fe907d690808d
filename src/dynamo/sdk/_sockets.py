"""The sockets on which services listen for HTTP.

They are bound by the parent of the workers, so that a port in use is known before anything is started, and
so that the workers which follow others take over without refusing anybody. The workers listen on them.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable

from dynamo._core.errors import ConfigError
from dynamo.runtime._listening import bind
from dynamo.sdk._plan import HttpAddress, PlannedService

#: What a socket is bound for: its address, and the name of the service if any free port will do.
_Key = tuple[HttpAddress, str]


class Sockets:
    """All that are bound now."""

    def __init__(self) -> None:
        self._bound: dict[_Key, socket.socket] = {}

    def bind(self, services: Iterable[PlannedService]) -> dict[str, socket.socket]:
        """Return a socket for every service that serves HTTP; one that is bound already is used again.

        Raises `ConfigError` for an address that cannot be had, and then nothing more is bound than before.
        """
        before = set(self._bound)
        sockets: dict[str, socket.socket] = {}
        for service in services:
            if service.http is None:
                continue
            key = _key(service.name, service.http)
            try:
                if key not in self._bound:
                    self._bound[key] = bind(service.http.host, service.http.port)
            except OSError as error:
                self._close(set(self._bound) - before)
                raise ConfigError(_cannot_listen(service.name, service.http, error)) from error
            sockets[service.name] = self._bound[key]
        return sockets

    def url_of(self, service: PlannedService) -> str | None:
        """Where a service of which the socket is bound can be reached; None if it does not serve HTTP."""
        if service.http is None:
            return None
        port = self._bound[_key(service.name, service.http)].getsockname()[1]
        return HttpAddress(service.http.host, port).url

    def keep(self, services: Iterable[PlannedService]) -> None:
        """Close those that none of the services uses."""
        used = {_key(service.name, service.http) for service in services if service.http is not None}
        self._close(set(self._bound) - used)

    def _close(self, keys: Iterable[_Key]) -> None:
        for key in keys:
            self._bound.pop(key).close()


def _key(name: str, address: HttpAddress) -> _Key:
    return (address, "" if address.port else name)


def _cannot_listen(name: str, address: HttpAddress, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {address.port} of {address.host} is in use, so {name} cannot listen on it: "
            f"stop what uses it, or choose another port with --port or {name}.port"
        )
    return f"{name} cannot listen on port {address.port} of {address.host}: {error.strerror or error}"

"""Addresses of hosts, looked up in threads that hold up nobody.

A resolver whose servers do not answer hangs for many seconds and cannot be interrupted, and the threads that
asyncio, uvloop and aiohttp use for it are waited for when a process ends. Ours are not.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass

#: Longer than any connection of ours may take, so that who connects says that it took too long.
LOOKUP_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class HostAddress:
    """One address of a host."""

    host: str
    family: int


class Lookups:
    """Looks hosts up. Belongs to one event loop; each host has one thread at a time."""

    def __init__(self) -> None:
        self._running: dict[tuple[str, int], asyncio.Future[list[HostAddress]]] = {}

    async def find(self, host: str, family: int = socket.AF_UNSPEC) -> list[HostAddress]:
        """Return the addresses of `host`, at least one. Raises `OSError`, which names it."""
        if (literal := _literal(host)) is not None:
            return [literal]
        asked = (host, family)
        if asked not in self._running:
            loop = asyncio.get_running_loop()
            found: asyncio.Future[list[HostAddress]] = loop.create_future()
            looking = threading.Thread(target=_look_up, args=(host, family, loop, found), name="look up", daemon=True)
            try:
                looking.start()
            except RuntimeError as error:
                raise OSError(f"{host!r} cannot be looked up without a thread for it: {error}") from error
            self._running[asked] = found
            found.add_done_callback(lambda found: self._forget(asked, found))
        try:
            async with asyncio.timeout(LOOKUP_TIMEOUT_S):
                return await asyncio.shield(self._running[asked])
        except TimeoutError as error:
            raise OSError(f"the resolver of this host has not found {host!r} within {LOOKUP_TIMEOUT_S:g} s") from error

    def _forget(self, asked: tuple[str, int], found: asyncio.Future[list[HostAddress]]) -> None:
        del self._running[asked]
        if not found.cancelled():
            found.exception()  # whoever asked may have left


def _look_up(host: str, family: int, loop: asyncio.AbstractEventLoop, found: asyncio.Future[list[HostAddress]]) -> None:
    """Find the addresses of a host, and tell the loop. Runs in a thread."""
    outcome: list[HostAddress] | OSError
    try:
        infos = socket.getaddrinfo(host, None, family=family, type=socket.SOCK_STREAM)
        outcome = [HostAddress(_with_scope(address), kind) for kind, _, _, _, address in infos]
    except (OSError, UnicodeError) as error:
        outcome = OSError(f"{host!r} is not known to the resolver of this host: {error}")
    with suppress(RuntimeError):  # the loop has ended meanwhile
        loop.call_soon_threadsafe(_tell, found, outcome)


def _tell(found: asyncio.Future[list[HostAddress]], outcome: list[HostAddress] | OSError) -> None:
    if isinstance(outcome, OSError):
        found.set_exception(outcome)
    else:
        found.set_result(outcome)


def _with_scope(address: tuple[object, ...]) -> str:
    """Return what to connect to; an IPv6 address of one link says of which."""
    host = str(address[0])
    return f"{host}%{address[3]}" if len(address) > 3 and address[3] and "%" not in host else host


def _literal(host: str) -> HostAddress | None:
    """Return an address that needs not be looked up, or None."""
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        return None
    return HostAddress(host, socket.AF_INET6 if version == 6 else socket.AF_INET)

"""Sockets that notice within about three seconds that the host at their other end is gone without a word."""

from __future__ import annotations

import socket
from contextlib import suppress

#: A peer that is silent is asked each second, three times; what was sent has 3000 ms. Linux has all, others some.
_OPTIONS = (("TCP_KEEPIDLE", 1), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 3000))


def watch_for_dead_peer(sock: socket.socket) -> None:
    """Have the kernel report a peer that vanished, to whoever reads or writes."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _OPTIONS:
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def watched_socket(info: tuple[object, ...]) -> socket.socket:
    """Return a new socket that is watched, for a connector of aiohttp; `info` is as the resolver gave it."""
    family, kind, protocol = info[:3]
    made = socket.socket(family, kind, protocol)  # type: ignore[arg-type]
    with suppress(OSError):
        watch_for_dead_peer(made)
    return made

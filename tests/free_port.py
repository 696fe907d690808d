"""A port of this machine that is free, and stays so until whoever asked for it listens there."""

from __future__ import annotations

import random
import socket

# Below those from which the kernel takes one for a connection, or for whoever listens at port 0: in the time until a
# server has started, one of those would be gone. Drawn, because other tests run at the same time.
_LOWEST, _HIGHEST = 12_000, 32_000
_drawn = random.SystemRandom()


def free_port() -> int:
    """Return a port at which nobody listens."""
    while True:
        port = _drawn.randrange(_LOWEST, _HIGHEST)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port

"""What a request plane has counted, and what it says of peers that it turns away.

Anybody who can connect can be turned away as often as he likes. So each is counted, and the log has one line for
each reason in a while.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from dynamo._core import wire

logger = logging.getLogger(__name__)

#: So long is nothing more said about one reason.
LOG_EVERY_S = 10.0

#: Why a connection that had begun to talk was closed: what came is not what a peer of ours sends.
UNEXPECTED, UNFINISHED = "unexpected_message", "unfinished_frame"
#: Why a connection did not get so far.
UNAUTHORIZED, INCOMPATIBLE_VERSION, NO_HELLO = "unauthorized", "incompatible_version", "no_hello"
OTHER_USER, TOO_MANY_CONNECTIONS, TLS = "other_user", "too_many_connections", "tls"
_REJECTIONS = (*wire.REASONS, UNEXPECTED, UNFINISHED)
_HELLO_FAILURES = (UNAUTHORIZED, INCOMPATIBLE_VERSION, NO_HELLO, OTHER_USER, TOO_MANY_CONNECTIONS, TLS)


@dataclass(slots=True)
class PlaneStats:
    """Counters since the plane was opened, of both ends of its connections. Every reason is there from the start."""

    num_connections: int = 0
    num_connections_opened: int = 0
    #: Connections to peers that we call, with requests on them and without; as of when the plane was asked.
    num_pool_active: int = 0
    num_pool_idle: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    #: Connections closed for a frame that was refused, by reason.
    frames_rejected: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_REJECTIONS, 0))
    #: Connections that were never used, by reason.
    hello_failures: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_HELLO_FAILURES, 0))
    #: Connections closed because the peer read nothing of what it was sent.
    num_unread_closed: int = 0
    #: Messages of newer peers that were left out, counted as their connection ends.
    num_messages_ignored: int = 0
    # When each reason was last logged, and how often it was not since.
    _logged: dict[str, tuple[float, int]] = field(default_factory=dict, repr=False)

    def reject(self, reason: str, where: str, message: str, now: float) -> None:
        """Count a frame that was refused. A reason that nobody knows counts as an unexpected message."""
        reason = reason if reason in self.frames_rejected else UNEXPECTED
        self.frames_rejected[reason] += 1
        self._log(reason, f"closing a connection {where}: {message}", now)

    def close_unread(self, where: str, size_bytes: int, now: float) -> None:
        """Count a connection that was closed because the peer does not read."""
        self.num_unread_closed += 1
        self._log("unread", f"closing a connection {where}: the peer leaves {size_bytes} bytes unread", now)

    def fail_hello(self, reason: str, where: str, message: str, now: float) -> None:
        """Count a connection that was not let in, or did not let us in."""
        self.hello_failures[reason] += 1
        self._log(reason, f"refusing a connection {where}: {message}", now)

    def _log(self, reason: str, text: str, now: float) -> None:
        last, left_out = self._logged.get(reason, (None, 0))
        if last is not None and now - last < LOG_EVERY_S:
            self._logged[reason] = (last, left_out + 1)
            return
        self._logged[reason] = (now, 0)
        logger.warning("%s%s", text, f" (and {left_out} times before this)" if left_out else "")

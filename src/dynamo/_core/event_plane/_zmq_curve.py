"""CURVE for the sockets of the event plane: whoever holds the cluster token may publish and listen, nobody else.

Both key pairs come from the token. The public key of the publishers is no less secret than the token: it is never
sent, and without it no handshake can be begun, so to know it is to be let in. What the sockets say is encrypted.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from dataclasses import dataclass

import zmq
from zmq.utils import z85
from zmq.utils.monitor import parse_monitor_message

from dynamo._core.event_plane.base import EventStats

logger = logging.getLogger(__name__)

_FAILURES = int(
    zmq.Event.HANDSHAKE_FAILED_NO_DETAIL | zmq.Event.HANDSHAKE_FAILED_PROTOCOL | zmq.Event.HANDSHAKE_FAILED_AUTH
)
_LABEL = b"dynamo event plane 1 zmq curve "


@dataclass(frozen=True, slots=True, repr=False)
class CurveKeys:
    """The keys of a cluster, in Z85. They do not show themselves."""

    publisher_public: bytes
    publisher_secret: bytes
    listener_public: bytes
    listener_secret: bytes

    @classmethod
    def from_token(cls, token: bytes) -> CurveKeys:
        """Derive them: the same for everybody who holds the token."""
        publisher, listener = _secret(token, b"publisher"), _secret(token, b"listener")
        return cls(zmq.curve_public(publisher), publisher, zmq.curve_public(listener), listener)

    def secure_publisher(self, socket: zmq.Socket[bytes]) -> None:
        """Let only those connect who have the keys. Before the socket is bound."""
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.publisher_secret)

    def secure_listener(self, socket: zmq.Socket[bytes]) -> None:
        """Listen to those only who have the keys. Before the socket is connected."""
        socket.setsockopt(zmq.CURVE_SERVERKEY, self.publisher_public)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self.listener_public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.listener_secret)


class Handshakes:
    """Counts the peers of a socket that it does not come to terms with, and tells of them."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], socket: zmq.Socket[bytes], who: str, stats: EventStats
    ) -> None:
        self._socket = socket
        self._who = who
        self._stats = stats
        self._loop = asyncio.get_running_loop()
        address = f"inproc://handshakes-{id(self):x}"
        self._monitor = context.socket(zmq.PAIR)
        self._monitor.setsockopt(zmq.RCVHWM, 0)  # with a limit, ZeroMQ's own thread would wait for us
        socket.monitor(address, _FAILURES)
        self._monitor.connect(address)
        self._fd = self._monitor.fileno()
        self._loop.add_reader(self._fd, self._read)
        # ZeroMQ tells the loop of an arrival once, and connecting may have taken note of it in the loop's place.
        self._loop.call_soon(self._read)

    def close(self) -> None:
        """Stop counting. Before the socket is closed."""
        if not self._monitor.closed:
            self._loop.remove_reader(self._fd)
            self._socket.disable_monitor()
            self._monitor.close(linger=0)

    def _read(self) -> None:
        while not self._monitor.closed:
            try:
                frames = self._monitor.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._note(parse_monitor_message(frames)["endpoint"])

    def _note(self, endpoint: bytes) -> None:
        self._stats.num_refused += 1
        if self._stats.num_refused.bit_count() == 1:
            logger.warning(
                "%s event plane: %d handshakes have failed so far, the last one at %s; if it was with a process of "
                "this cluster, set the same DYN_CLUSTER_TOKEN in all of them, or in none",
                self._who,
                self._stats.num_refused,
                endpoint.decode(errors="replace"),
            )


def _secret(token: bytes, who: bytes) -> bytes:
    return z85.encode(hmac.digest(token, _LABEL + who, "sha256"))

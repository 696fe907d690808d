"""Events among processes without a broker: each publisher has a PUB socket, and is found through discovery.

A message has four frames: the subject, the publisher's id and the sequence as u64 big-endian, and the
envelope. With a cluster token they are encrypted, and only who holds it can listen or be heard. ZeroMQ sends in a
thread of its own. For a listener that has stopped it keeps `ZMQ_SEND_MESSAGES_MAX` messages, and drops what comes then;
the listener sees the gap.
"""

from __future__ import annotations

import asyncio
import ipaddress
import random as random_module
from collections.abc import Mapping
from urllib.parse import parse_qs, urlsplit

import zmq

from dynamo._core._shown_url import without_password
from dynamo._core.discovery import Discovery
from dynamo._core.errors import ConfigError, DynamoError
from dynamo._core.event_plane._announcer import Announcer
from dynamo._core.event_plane._envelope import EVENT, HEAD, encode
from dynamo._core.event_plane._inbox import Inbox
from dynamo._core.event_plane._publisher import Publisher
from dynamo._core.event_plane._zmq_curve import CurveKeys, Handshakes
from dynamo._core.event_plane._zmq_reader import ZmqReader, channel_record, set_heartbeat
from dynamo._core.event_plane.base import EventStats, check_subscription
from dynamo._core.limits import SUBSCRIPTIONS_MAX, ZMQ_REQUEST_BYTES_MAX, ZMQ_SEND_MESSAGES_MAX
from dynamo._core.loopback import is_loopback

#: What is kept for a listener that is behind. One that reads nothing at all is cut off, and what was kept for it
#: freed, after `DEAD_PEER_MS`.
DEAD_PEER_MS = 6000
#: So long may the last events take to leave when the plane is closed.
LINGER_MS = 200
#: Subscriptions whose failed handshakes are told of: they fail alike, and each of these costs two more sockets.
WATCHED_MAX = 16
SOCKETS_MAX = SUBSCRIPTIONS_MAX + 2 * WATCHED_MAX + 16

_MORE, _LAST = int(zmq.SNDMORE | zmq.NOBLOCK), int(zmq.NOBLOCK)  # plain numbers: an enum's | takes a microsecond


class ZmqEventPlane:
    """An event plane over ZeroMQ. Belongs to one event loop, which runs when it is made.

    `host` and `port` are where others connect to hear us (port 0: any free one). A host that other machines can
    reach needs `insecure=True`, for whoever connects there may listen.
    """

    def __init__(
        self,
        discovery: Discovery,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        token: bytes | None = None,
        insecure: bool = False,
        random: random_module.Random | None = None,
        setting: str = "DYN_EVENT_PLANE",
    ) -> None:
        _check_host(host, insecure or token is not None, setting)
        self._discovery = discovery
        self._keys = None if token is None else CurveKeys.from_token(token)
        self._stats = EventStats()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, SOCKETS_MAX)
        try:
            self._socket, address = _bind(self._context, host, port, self._keys, setting)
            self._handshakes = Handshakes(self._context, self._socket, "publishing on the", self._stats)
        except BaseException:
            self._context.destroy(linger=0)
            raise
        self._publisher = Publisher(self._say_heads, on_new_subject=self._announce, random=random)
        self._id = self._publisher.id.to_bytes(8, "big")
        self._announcer = Announcer(discovery, self._publisher.id, channel_record(address))
        self._readers: dict[Inbox, ZmqReader] = {}
        self._closed = False

    @classmethod
    def from_url(
        cls, url: str, discovery: Discovery, token: bytes | None = None, *, setting: str = "DYN_EVENT_PLANE"
    ) -> ZmqEventPlane:
        """Read `zmq:`, `zmq://HOST`, `zmq://HOST:PORT`, with `?insecure=1` if any host may connect without a token."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "127.0.0.1", parts.port or 0
        except ValueError as error:
            raise ConfigError(f"{setting}={without_password(url)!r}: {error}") from error
        options = parse_qs(parts.query)
        if unknown := set(options) - {"insecure"}:
            raise ConfigError(
                f"{setting}={without_password(url)!r}: unknown option {min(unknown)!r}; there is insecure"
            )
        if parts.path.strip("/") or parts.username:
            raise ConfigError(f"{setting}={without_password(url)!r}: write zmq:, zmq://HOST or zmq://HOST:PORT")
        return cls(discovery, host, port, token=token, insecure=options.get("insecure") == ["1"], setting=setting)

    @property
    def publisher_id(self) -> int:
        return self._publisher.id

    @property
    def stats(self) -> EventStats:
        return self._stats

    async def publish(self, subject: str, payload: bytes) -> None:
        sequence = self._publisher.next(subject, payload)
        self._stats.num_published += 1
        self._send(EVENT, subject, sequence, payload)

    def subscribe(self, subject: str) -> Inbox:
        if self._closed:
            raise DynamoError("this event plane is closed; open a new one")
        check_subscription(subject, len(self._readers))
        inbox = Inbox(subject, self._stats, self._forget)
        self._readers[inbox] = ZmqReader(
            self._context,
            self._discovery,
            inbox,
            self._stats,
            self._keys,
            watches_handshakes=self._keys is not None and len(self._readers) < WATCHED_MAX,
        )
        return inbox

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._publisher.close()
        readers, self._readers = self._readers, {}
        for inbox, reader in readers.items():
            inbox.end()
            reader.stop()
        self._handshakes.close()
        self._socket.close(linger=LINGER_MS)
        try:
            for reader in readers.values():
                await reader.stopped()
            await self._announcer.close()
        finally:
            await asyncio.shield(asyncio.to_thread(self._context.term))  # it must happen, though we may be cancelled

    async def _forget(self, inbox: Inbox) -> None:
        reader = self._readers.pop(inbox, None)
        if reader is not None:
            reader.stop()
            await reader.stopped()

    def _announce(self, subject: str) -> None:
        self._announcer.announce(subject)

    def _say_heads(self, heads: Mapping[str, int]) -> None:
        for subject, sequence in heads.items():
            self._send(HEAD, subject, sequence, b"")

    def _send(self, kind: int, subject: str, sequence: int, payload: bytes) -> None:
        envelope = encode(kind, self._publisher.id, sequence, subject, payload)
        send = self._socket.send  # which drops on a PUB socket, rather than block or refuse
        send(subject.encode(), _MORE)
        send(self._id, _MORE)
        send(sequence.to_bytes(8, "big"), _MORE)
        send(envelope, _LAST)


def _bind(
    context: zmq.Context[zmq.Socket[bytes]], host: str, port: int, keys: CurveKeys | None, setting: str
) -> tuple[zmq.Socket[bytes], str]:
    """Return a PUB socket, and the address at which others reach it."""
    socket = context.socket(zmq.PUB)
    if keys is not None:
        keys.secure_publisher(socket)
    socket.setsockopt(zmq.SNDHWM, ZMQ_SEND_MESSAGES_MAX)
    socket.setsockopt(zmq.MAXMSGSIZE, ZMQ_REQUEST_BYTES_MAX)
    socket.setsockopt(zmq.TCP_MAXRT, DEAD_PEER_MS)
    set_heartbeat(socket)
    if ":" in host:
        socket.setsockopt(zmq.IPV6, 1)
    where = f"tcp://[{host}]" if ":" in host else f"tcp://{host}"
    try:
        socket.bind(f"{where}:{port or '*'}")
    except zmq.ZMQError as error:
        socket.close(linger=0)
        raise ConfigError(f"{setting}: cannot publish at {host}:{port}: {error}", host=host, port=port) from error
    endpoint = socket.getsockopt_string(zmq.LAST_ENDPOINT)
    return socket, f"{where}:{endpoint.rpartition(':')[2]}"


def _check_host(host: str, insecure: bool, setting: str) -> None:
    try:
        unspecified = host != "localhost" and ipaddress.ip_address(host).is_unspecified
    except ValueError as error:
        raise ConfigError(f"{setting}: {host!r} is not an IP address to publish at") from error
    if unspecified:
        raise ConfigError(f"{setting}: {host} says not how others reach this host; name one of its addresses")
    if not is_loopback(host) and not insecure:
        raise ConfigError(
            f"{setting}: other hosts could listen at {host}, and there are no credentials; set "
            "DYN_CLUSTER_TOKEN, publish at 127.0.0.1, or add ?insecure=1 on a network you trust"
        )

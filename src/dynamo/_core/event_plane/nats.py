"""Events among processes through NATS, which loses what it cannot deliver; our counts show it.

While NATS is away, what is published is dropped and counted, and its listeners hear of a gap once NATS is back.
Nothing is kept for later: an old hint is worth less than the memory that it takes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random as random_module
from collections.abc import Awaitable, Callable, Mapping

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsSubscription
from nats.errors import Error

from dynamo._core._nats import NatsConnection, NatsServers
from dynamo._core._nats_url import nats_setting
from dynamo._core.address import nats_subject
from dynamo._core.errors import DynamoError, ProtocolError
from dynamo._core.event_plane._envelope import EVENT, HEAD, deliver, encode, note_unreadable
from dynamo._core.event_plane._inbox import Inbox
from dynamo._core.event_plane._publisher import Publisher
from dynamo._core.event_plane.base import EventStats, check_subscription
from dynamo._core.limits import NATS_PENDING_BYTES_MAX

logger = logging.getLogger(__name__)


class NatsEventPlane:
    """An event plane over NATS. Use `connect`."""

    def __init__(self, servers: NatsServers, *, random: random_module.Random | None = None) -> None:
        self._connection = NatsConnection(servers, self._subscribe_again)
        self._publisher = Publisher(self._say_heads, random=random)
        self._stats = EventStats()
        self._closed = False
        self._saying: asyncio.Task[None] | None = None
        # The subscription of NATS behind each of ours, as a task that makes it.
        self._inboxes: dict[Inbox, asyncio.Task[NatsSubscription | None]] = {}

    @classmethod
    async def connect(
        cls, url: str, environ: Mapping[str, str] = os.environ, *, setting: str = "DYN_EVENT_PLANE"
    ) -> NatsEventPlane:
        """Connect to `nats://HOST:PORT`. Raises `CannotConnect` or `ConfigError`, about `setting`, soon."""
        setting = nats_setting(url, setting, environ)
        plane = cls(NatsServers.from_url(url, setting, environ))
        await plane._connection.open()
        return plane

    @property
    def publisher_id(self) -> int:
        return self._publisher.id

    @property
    def stats(self) -> EventStats:
        return self._stats

    async def publish(self, subject: str, payload: bytes) -> None:
        sequence = self._publisher.next(subject, payload)
        self._stats.num_published += 1
        if not await self._send(EVENT, subject, sequence, payload):
            self._note_dropped()

    def subscribe(self, subject: str) -> Inbox:
        if self._closed:
            raise DynamoError("this event plane is closed; open a new one")
        check_subscription(subject, len(self._inboxes))
        inbox = Inbox(subject, self._stats, self._forget)
        self._subscribe(inbox)
        return inbox

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._publisher.close()
        for inbox in list(self._inboxes):
            inbox.end()
            await self._forget(inbox)
        if self._saying is not None:
            self._saying.cancel()
            await asyncio.wait([self._saying])
        await self._connection.close()

    def _subscribe(self, inbox: Inbox) -> None:
        async def take(message: Msg) -> None:
            try:
                deliver(message.data, inbox)
            except ProtocolError as error:
                note_unreadable(self._stats, inbox.subject, error)

        subscribing = self._subscribe_with(self._connection.client, nats_subject(inbox.subject), take)
        self._inboxes[inbox] = asyncio.create_task(subscribing)

    async def _subscribe_with(
        self, client: Client, subject: str, take: Callable[[Msg], Awaitable[None]]
    ) -> NatsSubscription | None:
        try:
            return await client.subscribe(subject, cb=take)
        except Error as error:  # the connection has ended already; with the next one, all are made again
            logger.debug("a subscription to %s was not made: %r", subject, error)
            return None

    def _subscribe_again(self) -> None:
        """Go on with another connection; what came in between is a gap."""
        for inbox in list(self._inboxes):
            self._subscribe(inbox)

    async def _forget(self, inbox: Inbox) -> None:
        subscribing = self._inboxes.pop(inbox, None)
        if subscribing is None:
            return
        await asyncio.wait([subscribing])
        try:
            if (subscription := subscribing.result()) is not None:
                await subscription.unsubscribe()
        except Error as error:
            logger.debug("a subscription of a connection that has ended: %r", error)

    def _say_heads(self, heads: Mapping[str, int]) -> None:
        if self._saying is None or self._saying.done():
            self._saying = asyncio.create_task(self._send_heads(dict(heads)))

    async def _send_heads(self, heads: Mapping[str, int]) -> None:
        for subject, sequence in heads.items():
            await self._send(HEAD, subject, sequence, b"")

    async def _send(self, kind: int, subject: str, sequence: int, payload: bytes) -> bool:
        """Give a message to NATS, if it takes it now."""
        client = self._connection.client
        if not client.is_connected or client.pending_data_size > NATS_PENDING_BYTES_MAX:
            return False
        data = encode(kind, self._publisher.id, sequence, subject, payload)
        try:
            await client.publish(nats_subject(subject), data)
        except (Error, OSError) as error:
            logger.debug("NATS does not take an event: %r", error)
            return False
        return True

    def _note_dropped(self) -> None:
        self._stats.num_dropped += 1
        if self._stats.num_dropped.bit_count() == 1:
            logger.warning(
                "%d events were dropped so far, because NATS is away or slow; those who listen see a gap",
                self._stats.num_dropped,
            )

"""Events of a runtime: values that are published, and heard by all who listen. Hints, which may be lost.

The plane that carries them is opened on first use: a process without events pays nothing for them.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar, overload

from dynamo._core import event_plane
from dynamo._core.discovery import Discovery, Lease
from dynamo._core.errors import DynamoError
from dynamo._core.event_plane import EventPlane, EventStats, Gap, open_event_plane
from dynamo._core.stability import stable
from dynamo.runtime._arguments import check_text
from dynamo.runtime._codec import UNREADABLE, JsonValue, encode
from dynamo.runtime._event_plane_kinds import event_plane_kind_of, tell_event_plane
from dynamo.runtime._payload import payload_decoder

if TYPE_CHECKING:
    from dynamo.runtime._runtime import DistributedRuntime

logger = logging.getLogger(__name__)

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

#: So long is a server left alone that could not be reached.
RETRY_S = 1.0


@stable(since="0.1")
@dataclass(frozen=True, slots=True)
class Event(Generic[T_co]):
    """What a publisher said. `sequence` counts what it has said on this subject, from 1."""

    publisher_id: int
    sequence: int
    payload: T_co


@stable(since="0.1", constructor=False)
class Subscription(Generic[T_co]):
    """The events on one subject, of everyone who publishes there: iterate, then close it, or use `async with`.

    Events of one publisher come in order, each at most once, and what is missing between two of them is a `Gap`
    in its place. A reader that is slow loses the oldest events and is told so.
    """

    def __init__(
        self,
        subject: str,
        heard: event_plane.Subscription,
        decode: Callable[[bytes], T_co],
        on_close: Callable[[Subscription[T_co]], None],
    ) -> None:
        self.subject = subject
        self._heard = heard
        self._decode = decode
        self._on_close = on_close
        self._num_unreadable = 0

    async def __aenter__(self) -> Subscription[T_co]:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __aiter__(self) -> Subscription[T_co]:
        return self

    async def __anext__(self) -> Event[T_co] | Gap:
        """Return the next event or gap, waiting for it. There is one reader at a time."""
        return self._read(await anext(self._heard))

    async def batch(self) -> list[Event[T_co] | Gap]:
        """Return everything that has arrived, waiting for the first; an empty list at the end."""
        return [self._read(item) for item in await self._heard.batch()]

    async def aclose(self) -> None:
        """Stop listening. A second call changes nothing."""
        self._on_close(self)
        await self._heard.aclose()

    def _read(self, item: event_plane.Event | Gap) -> Event[T_co] | Gap:
        if isinstance(item, Gap):
            return item
        try:
            return Event(item.publisher_id, item.sequence, self._decode(item.payload))
        except UNREADABLE as error:
            self._num_unreadable += 1
            if self._num_unreadable.bit_count() == 1:
                logger.warning(
                    "%d events on %s could not be read so far, and count as missed: %s",
                    self._num_unreadable,
                    self.subject,
                    error,
                )
            return Gap(item.publisher_id, 1)


class EventScope(ABC):
    """A name whose events can be published and heard: of a namespace, a component, or an endpoint."""

    runtime: DistributedRuntime

    @abstractmethod
    def event_subject(self, topic: str) -> str:
        """The subject of the events on `topic` that are published here."""

    async def publish(self, topic: str, payload: object) -> None:
        """Tell everyone who listens to `topic` here. See `Events.publish`."""
        await self.runtime.events.publish(self.event_subject(topic), payload)

    @overload
    async def subscribe(self, topic: str) -> Subscription[JsonValue]: ...
    @overload
    async def subscribe(self, topic: str, payload_type: type[T]) -> Subscription[T]: ...
    async def subscribe(
        self, topic: str, payload_type: type[T] | None = None
    ) -> Subscription[T] | Subscription[JsonValue]:
        """Begin to listen to all who publish `topic` here. See `Events.subscribe`."""
        subject = self.event_subject(topic)
        if payload_type is None:
            return await self.runtime.events.subscribe(subject)
        return await self.runtime.events.subscribe(subject, payload_type)


@stable(since="0.1", constructor=False)
class Events:
    """Publishes and subscribes for one runtime: `runtime.events`. A subject is parts with `/` between them."""

    def __init__(self, at: str | EventPlane, discovery: Discovery, lease: Lease, *, setting: str) -> None:
        self._at = at
        self._setting = setting  # what names it, for an error
        self._discovery = discovery
        self._lease = lease
        # Tells others through which kind of plane this process speaks.
        self._telling: asyncio.Task[None] | None = None
        self._plane: EventPlane | None = None
        self._opening = asyncio.Lock()
        self._subscriptions: set[Subscription[object]] = set()
        # Why it could not be opened, and until when nobody tries again.
        self._failure: DynamoError | None = None
        self._retry_at = 0.0
        self._closed = False

    async def open(self) -> EventPlane:
        """Open the plane, if nobody has yet: then publishing never waits.

        Raises `ConfigError` or `CannotConnect`, in less than two seconds, if the plane is one on a server, and
        `DynamoError` if the runtime is closed.
        """
        async with self._opening:
            if self._closed:
                raise DynamoError("this runtime is closed; open a new one")
            if self._plane is None:
                self._plane = await self._open()
            return self._plane

    async def publish(self, subject: str, payload: object) -> None:
        """Tell everyone who listens now. It never fails because nobody can hear, and waits only to open the plane.

        Raises `InvalidArgument` for a subject that is none or a payload that is too large.
        """
        check_text("subject", subject)
        plane = self._plane or await self.open()
        await plane.publish(subject, encode(payload))

    @overload
    async def subscribe(self, subject: str) -> Subscription[JsonValue]: ...
    @overload
    async def subscribe(self, subject: str, payload_type: type[T]) -> Subscription[T]: ...
    async def subscribe(self, subject: str, payload_type: type[T] | None = None) -> Subscription[T]:
        """Begin to listen to those who publish on `subject` now, and those who come later.

        Payloads are read into `payload_type`, a msgspec type or a pydantic model; one that cannot be is a gap. Raises
        `InvalidArgument` for a subject that is none, and what `open` raises.
        """
        check_text("subject", subject)
        plane = self._plane or await self.open()
        decode = payload_decoder(payload_type)
        subscription = Subscription(subject, plane.subscribe(subject), decode, self._subscriptions.discard)
        self._subscriptions.add(subscription)
        return subscription

    @property
    def stats(self) -> EventStats | None:
        """What was counted; None if the plane was not needed yet, or is closed."""
        return None if self._plane is None else self._plane.stats

    async def close(self) -> None:
        """End what listens here, and the plane if it was opened here."""
        self._closed = True
        async with self._opening:  # let it open before it is closed
            for subscription in list(self._subscriptions):
                await subscription.aclose()
            if self._telling is not None:
                self._telling.cancel()
                await asyncio.wait([self._telling])
            plane, self._plane = self._plane, None
            if plane is not None and isinstance(self._at, str):
                await plane.close()

    async def _open(self) -> EventPlane:
        if not isinstance(self._at, str):
            return self._at
        loop = asyncio.get_running_loop()
        if self._failure is not None and loop.time() < self._retry_at:
            raise type(self._failure)(self._failure.message, **self._failure.details) from self._failure
        try:
            plane = await open_event_plane(self._at, self._discovery, setting=self._setting)
        except DynamoError as error:
            # A caller may be told of it, who knows nothing of this process.
            told = type(error)(f"{error.message} (in instance {self._lease.id:x})", **error.details)
            self._failure, self._retry_at = told, loop.time() + RETRY_S
            raise told from error
        kind = event_plane_kind_of(self._at)
        if kind is not None:
            telling = tell_event_plane(kind, self._discovery, self._lease)
            self._telling = asyncio.create_task(telling, name="tell which event plane this is")
        return plane

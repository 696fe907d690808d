"""The planes of a runtime: what names each, and those that are open.

An argument names a plane, or the environment does; and what names it is what an error has to blame.
"""

from __future__ import annotations

import os
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Generic, TypeVar

from dynamo._core.discovery import discovery_setting, discovery_url_from_env, open_discovery
from dynamo._core.discovery.base import Discovery, Lease
from dynamo._core.errors import DynamoError
from dynamo._core.event_plane import SETTING as EVENT_PLANE
from dynamo._core.event_plane import EventPlane, check_event_plane_url, event_plane_url_from_env
from dynamo._core.request_plane import SETTING as REQUEST_PLANE
from dynamo._core.request_plane import RequestPlane, open_request_plane
from dynamo._core.work_queue import SETTING as WORK_QUEUE
from dynamo._core.work_queue import check_work_queue_url, work_queue_url_from_env
from dynamo.runtime._arguments import check_type, check_url_or
from dynamo.runtime._events import Events

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Named(Generic[T]):
    """A plane by its URL, or one to share; `setting` is the argument or the variable that names it."""

    at: str | T
    setting: str


class Planes:
    """The planes of one runtime. Those that were opened here are closed here."""

    def __init__(
        self,
        discovery: str | Discovery | None,
        request_plane: str | RequestPlane | None,
        event_plane: str | EventPlane | None,
        work_queue: str | None,
    ) -> None:
        check_url_or("discovery", discovery, "grant", "a URL such as file:///some/dir, a Discovery, or None")
        check_url_or("request_plane", request_plane, "listen", "a URL such as tcp:, a RequestPlane, or None")
        check_url_or("event_plane", event_plane, "publish", "a URL such as zmq:, an EventPlane, or None")
        check_type("work_queue", work_queue, (str, type(None)), "a URL such as nats://host:4222, or None")
        environ = os.environ
        self.discovery_named: Named[Discovery] = (
            Named(discovery_url_from_env(environ), discovery_setting(environ))
            if discovery is None
            else Named(discovery, "discovery")
        )
        self.requests_named: Named[RequestPlane] = (
            Named(environ.get(REQUEST_PLANE) or "tcp:", REQUEST_PLANE)
            if request_plane is None
            else Named(request_plane, "request_plane")
        )
        self.events_named: Named[EventPlane] = Named(
            event_plane_url_from_env(environ, event_plane)
            if event_plane is None or isinstance(event_plane, str)
            else event_plane,
            EVENT_PLANE if event_plane is None else "event_plane",
        )
        self.queues_named: Named[str] = Named(
            work_queue_url_from_env(environ, work_queue), WORK_QUEUE if work_queue is None else "work_queue"
        )
        self._discovery: Discovery | None = None
        self._requests: RequestPlane | None = None
        self._lease: Lease | None = None
        self._events: Events | None = None

    def check(self) -> None:
        """Raise `ConfigError` if events or work queues could not be had: now, and not when they are first needed."""
        if isinstance(self.events_named.at, str):
            check_event_plane_url(self.events_named.at, self.events_named.setting)
        check_work_queue_url(self.queues_named.at, self.queues_named.setting)

    async def open(self) -> None:
        """Open what is always needed, and claim to be alive. Whoever calls it closes it, also if it fails."""
        found, sent = self.discovery_named, self.requests_named
        self._discovery = open_discovery(found.at, found.setting) if isinstance(found.at, str) else found.at
        self._requests = open_request_plane(sent.at, setting=sent.setting) if isinstance(sent.at, str) else sent.at
        self._lease = await self._discovery.grant()
        self._events = Events(self.events_named.at, self._discovery, self._lease, setting=self.events_named.setting)

    async def close(self) -> None:
        """End what was opened here, and the lease, each whatever became of the others."""
        async with AsyncExitStack() as ends:  # from the last line to the first
            if self._discovery is not None and isinstance(self.discovery_named.at, str):
                ends.push_async_callback(self._discovery.close)
            if self._requests is not None and isinstance(self.requests_named.at, str):
                ends.push_async_callback(self._requests.close)
            if self._lease is not None:
                ends.push_async_callback(self._lease.close)
            if self._events is not None:
                ends.push_async_callback(self._events.close)

    @property
    def are_open(self) -> bool:
        """Whether the runtime has joined."""
        return self._lease is not None

    @property
    def discovery(self) -> Discovery:
        """Who is alive. Raises `DynamoError` before it was opened, as the others do."""
        return entered(self._discovery)

    @property
    def requests(self) -> RequestPlane:
        """What carries requests."""
        return entered(self._requests)

    @property
    def lease(self) -> Lease:
        """The claim of this process to be alive."""
        return entered(self._lease)

    @property
    def events(self) -> Events:
        """What is published and heard."""
        return entered(self._events)


def entered(held: T | None) -> T:
    """Return what there is once a runtime has joined. Raises `DynamoError` before."""
    if held is None:
        raise DynamoError("the runtime has not joined yet: use it inside `async with`")
    return held

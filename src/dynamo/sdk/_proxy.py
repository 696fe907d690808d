"""What `depends` becomes in a running service: the endpoints of another service, as methods."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from typing import TYPE_CHECKING

from dynamo._core.context import Context
from dynamo.runtime import Client, DistributedRuntime, ResponseStream
from dynamo.sdk._context import request_context
from dynamo.sdk._status import START_TIMEOUT_S

if TYPE_CHECKING:
    from dynamo.runtime._codec import JsonValue
    from dynamo.sdk._service import Service


class ServiceProxy:
    """Calls the endpoints of a service on whichever of its workers are alive.

    `proxy.generate(request)` is awaited for one answer, or iterated for a stream of them. A request may
    be a model, a dict, a str, or anything else that JSON can say.
    """

    def __init__(self, service: Service[object], runtime: DistributedRuntime) -> None:
        self._service = service
        self._runtime = runtime
        self._clients: dict[str, asyncio.Task[Client]] = {}
        self._names = {alias: spec.name for spec in service.plane_endpoints for alias in spec.aliases}
        self._names |= {spec.name: spec.name for spec in service.plane_endpoints}

    def __getattr__(self, attribute: str) -> Callable[..., Call]:
        name = self._names.get(attribute)
        if name is None:
            raise AttributeError(_no_endpoint(attribute, self._service))
        timeout_s = self._service.options.traffic.timeout

        def call(request: object = None, *, context: Context | None = None) -> Call:
            return Call(lambda: self.get_endpoint(name), request, context or request_context.get(), timeout_s)

        self.__dict__[attribute] = call  # the next look-up finds it at once
        return call

    async def get_endpoint(self, name: str) -> Client:
        """Return the client of an endpoint: one for the life of the service, made on first use.

        The first use waits until a worker serves the endpoint, so that services may start in any order.
        """
        if name not in self._names:
            raise AttributeError(_no_endpoint(name, self._service))
        name = self._names[name]
        if name not in self._clients or _has_failed(self._clients[name]):
            self._clients[name] = asyncio.ensure_future(self._open(name))
        return await asyncio.shield(self._clients[name])

    async def connect(self) -> None:
        """Wait until every endpoint of the service is served by somebody."""
        for name in sorted(set(self._names.values())):
            await self.get_endpoint(name)

    async def close(self) -> None:
        """Give the clients back."""
        opening = list(self._clients.values())
        self._clients.clear()
        for task in opening:
            task.cancel()
        for outcome in await asyncio.gather(*opening, return_exceptions=True):
            if isinstance(outcome, Client):
                await outcome.close()

    async def _open(self, name: str) -> Client:
        namespace, component = self._service.dynamo_address()
        client = await self._runtime.namespace(namespace).component(component).endpoint(name).client()
        try:
            await client.wait_for_instances(timeout_s=START_TIMEOUT_S)
        except BaseException:
            await client.close()
            raise
        return client


class Call:
    """A call that was not sent yet: `await` it for its first answer, or iterate over all of them.

    Leaving the loop, closing the call or dropping it cancels the work behind it.
    """

    def __init__(
        self,
        connect: Callable[[], Coroutine[object, object, Client]],
        request: object,
        context: Context | None,
        timeout_s: float | None,
    ) -> None:
        self._connect = connect
        self._request = request
        self._context = context
        self._timeout_s = timeout_s
        # The mutable state: the stream once it is open, and the items that arrived and were not read
        # yet, the last first.
        self._stream: ResponseStream[JsonValue] | None = None
        self._items: list[JsonValue] = []
        self._closed = False
        self._limited: Context | None = None

    def __await__(self) -> Generator[object, None, JsonValue]:
        return self._first().__await__()

    def __aiter__(self) -> AsyncIterator[JsonValue]:
        return self

    async def __anext__(self) -> JsonValue:
        if self._items:
            return self._items.pop()
        if self._closed:
            raise StopAsyncIteration
        if self._stream is None:
            self._stream = await self._open()
        try:
            self._items = await self._stream.batch()
        except BaseException:
            self._end()
            raise
        if not self._items:
            self._end()
            raise StopAsyncIteration
        self._items.reverse()
        return self._items.pop()

    async def aclose(self) -> None:
        """Cancel the work behind the call. A second call changes nothing."""
        self._end()
        if self._stream is not None:
            await self._stream.aclose()

    async def _first(self) -> JsonValue:
        """The only answer, or the first of a stream, whose rest is given up. None if there was none.

        An answer counts once the stream has ended well or has gone on, so that an error right after it
        is not lost and the handler can finish what it does after its last answer.
        """
        try:
            answer = await anext(self, None)
            await anext(self, None)
            return answer
        finally:
            await self.aclose()

    async def _open(self) -> ResponseStream[JsonValue]:
        client = await self._connect()
        return await client.generate(self._request, annotated=False, context=self._own_context())

    def _own_context(self) -> Context | None:
        """The context of the request that is being served, within the time limit of the called service."""
        outer = self._context
        if self._timeout_s is None:
            return outer
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        if outer is None:
            return Context(deadline=deadline)
        if outer.deadline is not None and outer.deadline <= deadline:
            return outer
        self._limited = Context(outer.request_id, outer.metadata, deadline=deadline)
        outer.stopped_token.add_callback(self._limited.stop_generating)
        return self._limited

    def _end(self) -> None:
        self._closed = True
        self._items.clear()
        if self._limited is not None and self._context is not None:
            self._context.stopped_token.remove_callback(self._limited.stop_generating)
            self._limited = None


def _has_failed(task: asyncio.Task[Client]) -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)


def _no_endpoint(name: str, service: Service[object]) -> str:
    available = [spec.name for spec in service.plane_endpoints]
    return f"No Dynamo endpoint {name!r} found on service {service.name!r}. Available endpoints: {available}"

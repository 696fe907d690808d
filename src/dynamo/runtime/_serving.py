"""The serving side of an endpoint: a handler of any kind becomes a stream of bytes."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Executor
from contextlib import aclosing
from typing import TYPE_CHECKING, cast

from dynamo._core import request_plane
from dynamo._core.context import Context
from dynamo.runtime import _codec

if TYPE_CHECKING:
    from dynamo._core.discovery.base import Discovery

#: `(request)` or `(request, context)`; an async generator, an async function, or their sync kin.
EndpointHandler = Callable[..., object]

#: How long a closing endpoint waits for the requests that run.
DRAIN_S = 30.0

_END = object()


class ServedEndpoint:
    """An endpoint that takes requests: registered, until it is closed."""

    def __init__(
        self,
        discovery: Discovery,
        key: str,
        instance_id: int,
        listener: request_plane.Listener,
        drain_s: float,
        on_close: Callable[[ServedEndpoint], None],
    ) -> None:
        self.instance_id = instance_id
        self._on_close = on_close
        self._discovery = discovery
        self._key = key
        self._listener = listener
        self._drain_s = drain_s
        self._closing: asyncio.Task[None] | None = None

    async def close(self, drain_s: float | None = None) -> None:
        """Unregister, let running requests finish for `drain_s`, then end them. Later calls wait for the first."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close(self._drain_s if drain_s is None else drain_s))
        await asyncio.shield(self._closing)

    async def _close(self, drain_s: float) -> None:
        try:
            await self._discovery.delete(self._key)
        finally:
            try:
                await self._listener.close(drain_s)
            finally:
                self._on_close(self)


def serve_bytes(
    handler: EndpointHandler, decode: Callable[[bytes], object], threads: Callable[[], Executor]
) -> request_plane.Handler:
    """Return `handler` as the request plane wants it: bytes in, an async iterator of bytes out."""
    takes_context = _takes_context(handler)
    is_stream = inspect.isasyncgenfunction(handler)

    def serve(payload: bytes, context: Context) -> AsyncIterator[bytes]:
        request = _codec.decode_request(payload, decode)
        arguments = (request, context) if takes_context else (request,)
        if is_stream:
            return _Encoded(cast("AsyncGenerator[object, None]", handler(*arguments)))
        return _Encoded(_items(handler, arguments, threads))

    return serve


class _Encoded:
    """The items of a handler, as bytes. A class, because a generator around a generator costs a microsecond more."""

    __slots__ = ("_items", "aclose")

    def __init__(self, items: AsyncGenerator[object, None]) -> None:
        self._items = items
        self.aclose = items.aclose

    def __aiter__(self) -> _Encoded:
        return self

    async def __anext__(self) -> bytes:
        return _codec.encode(await self._items.__anext__())


async def _items(
    handler: EndpointHandler, arguments: tuple[object, ...], threads: Callable[[], Executor]
) -> AsyncGenerator[object, None]:
    """Yield what a handler returns, whichever kind it is."""
    if inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None)):  # noqa: B004
        result = await cast("Awaitable[object]", handler(*arguments))
    else:
        # A plain function may block, so it runs beside the loop; an async one returned by it does not.
        result = await asyncio.get_running_loop().run_in_executor(threads(), _call, handler, arguments)
        if inspect.isawaitable(result):
            result = await result
    if isinstance(result, AsyncGenerator):
        async with aclosing(result) as items:
            async for item in items:
                yield item
    elif isinstance(result, AsyncIterator):
        async for item in result:
            yield item
    elif isinstance(result, Iterator):
        async with aclosing(_iterate_beside(result, threads())) as items:
            async for item in items:
                yield item
    else:
        yield result


def _call(handler: EndpointHandler, arguments: tuple[object, ...]) -> object:
    try:
        return handler(*arguments)
    except StopIteration as error:
        # A future cannot hold it, so whoever awaits the thread would never hear of it.
        raise RuntimeError("the handler raised StopIteration") from error


async def _iterate_beside(items: Iterator[object], threads: Executor) -> AsyncGenerator[object, None]:
    """Iterate in a thread. The lock keeps `close` from a generator that is still in a step."""
    loop = asyncio.get_running_loop()
    running = threading.Lock()

    def step() -> object:
        with running:
            return next(items, _END)

    def close() -> None:
        with running:
            if hasattr(items, "close"):
                items.close()

    try:
        while (item := await loop.run_in_executor(threads, step)) is not _END:
            yield item
    finally:
        await asyncio.shield(loop.run_in_executor(threads, close))


def _takes_context(handler: EndpointHandler) -> bool:
    parameters = inspect.signature(handler).parameters.values()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return True
    required = [p for p in positional if p.default is p.empty]
    if not positional or len(required) > 2:
        name = getattr(handler, "__name__", repr(handler))
        raise TypeError(f"{name} cannot serve an endpoint: it must take (request) or (request, context)")
    return len(positional) >= 2 and (len(required) == 2 or positional[1].name in ("context", "ctx"))

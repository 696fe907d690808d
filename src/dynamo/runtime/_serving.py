"""The serving side of an endpoint: a handler of any kind becomes a stream of bytes."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Executor
from contextlib import aclosing
from contextvars import copy_context
from typing import TYPE_CHECKING, cast

from dynamo._core import request_plane
from dynamo._core.address import EndpointId
from dynamo._core.context import Context
from dynamo._core.errors import DynamoError
from dynamo.runtime import _codec
from dynamo.runtime._blame import blame, user_traceback
from dynamo.runtime._measured import ErrorType, Measured

if TYPE_CHECKING:
    from dynamo._core.discovery.base import Discovery

logger = logging.getLogger(__name__)

#: `(request)` or `(request, context)`; an async generator, an async function, or their sync kin.
EndpointHandler = Callable[..., object]

#: How long a closing endpoint waits for the requests that run.
DRAIN_S = 30.0

_END = object()

#: What most handlers return: one item, which needs no closer look.
_PLAIN = frozenset((dict, list, str, int, float, bool, type(None)))


class ServedEndpoint:
    """An endpoint that takes requests: registered, until it is closed."""

    def __init__(
        self,
        id: EndpointId,
        discovery: Discovery,
        instance_id: int,
        listener: request_plane.Listener,
        drain_s: float,
        on_close: Callable[[ServedEndpoint], None],
    ) -> None:
        self.id = id
        self.instance_id = instance_id
        #: Where discovery holds it.
        self.key = id.instance_key(instance_id)
        self._on_close = on_close
        self._discovery = discovery
        self._listener = listener
        self._drain_s = drain_s
        self._closing: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether it takes requests; not while it drains."""
        return self._closing is None

    async def close(self, drain_s: float | None = None) -> None:
        """Unregister, let running requests finish for `drain_s`, then end them. Later calls wait for the first."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close(self._drain_s if drain_s is None else drain_s))
        await asyncio.shield(self._closing)

    async def _close(self, drain_s: float) -> None:
        try:
            await self._discovery.delete(self.key)
        finally:
            try:
                await self._listener.close(drain_s)
            finally:
                self._on_close(self)


def serve_bytes(
    handler: EndpointHandler,
    decode: Callable[[bytes], object],
    threads: Callable[[], Executor],
    measured: Measured,
) -> request_plane.Handler:
    """Return `handler` as the request plane wants it: bytes in, an async iterator of bytes out."""
    takes_context = _takes_context(handler)
    # Asked once: for every request it would cost more than all that is counted.
    is_stream = inspect.isasyncgenfunction(handler)
    is_async = inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None))  # noqa: B004
    clock = asyncio.get_running_loop().time

    def serve(payload: bytes, context: Context) -> AsyncIterator[bytes]:
        measured.requests += 1
        measured.request_bytes += len(payload)
        try:
            request = _codec.decode_request(payload, decode)
        except BaseException:
            measured.errors[ErrorType.DESERIALIZATION] += 1
            measured.end(0.0)
            raise
        arguments = (request, context) if takes_context else (request,)
        if is_stream:
            items = handler(*arguments)
        elif is_async:
            items = _awaited(handler, arguments, threads)
        else:
            items = _threaded(handler, arguments, threads)
        return _Encoded(cast("AsyncGenerator[object, None]", items), context, measured, clock)

    return serve


class _Encoded:
    """The items of a handler, as bytes, and how they ended, counted.

    A class, because a generator around a generator costs a microsecond more. What is counted costs at the
    beginning and at the end of a request, and nothing for an item.
    """

    __slots__ = ("_clock", "_context", "_items", "_measured", "_started_at")

    def __init__(
        self,
        items: AsyncGenerator[object, None],
        context: Context,
        measured: Measured,
        clock: Callable[[], float],
    ) -> None:
        self._items = items
        self._context = context
        self._measured: Measured | None = measured  # None once the end is counted
        self._clock = clock
        self._started_at = clock()

    def __aiter__(self) -> _Encoded:
        return self

    async def __anext__(self) -> bytes:
        try:
            item = await self._items.__anext__()
        except StopAsyncIteration:
            measured, self._measured = self._measured, None
            if measured is not None:
                measured.end(self._clock() - self._started_at)
            raise
        except BaseException as error:
            self._fail(ErrorType.GENERATE, error)
            raise
        try:
            return _codec.encode(item)
        except BaseException as error:
            self._fail(ErrorType.SERIALIZATION, error)
            raise

    async def aclose(self) -> None:
        """End the handler before its items are over; a request that nobody ended could not be answered."""
        try:
            await self._items.aclose()
        finally:
            self._fail(ErrorType.PUBLISH_RESPONSE)

    def _fail(self, error_type: ErrorType, error: BaseException | None = None) -> None:
        measured, self._measured = self._measured, None
        if measured is None:
            return
        if isinstance(error, asyncio.CancelledError) or self._context.is_killed():
            measured.cancelled += 1
        else:
            measured.errors[error_type] += 1
            if error is not None and not isinstance(error, DynamoError):
                _log_failure(measured.endpoint, self._context.request_id, error)
        measured.end(self._clock() - self._started_at)


def _log_failure(endpoint: str, request_id: str, error: BaseException) -> None:
    """Say where a handler failed: its caller hears what was raised, and only this process knows where.

    An error of ours is not told of: it is an answer, or was told of where it began.
    """
    logger.error("%s failed in request %s: %s", endpoint, request_id, blame(error))
    if logger.isEnabledFor(logging.DEBUG):
        logger.debug("%s", user_traceback(error))


async def _awaited(
    handler: EndpointHandler, arguments: tuple[object, ...], threads: Callable[[], Executor]
) -> AsyncGenerator[object, None]:
    """Yield what an async function returns."""
    result = await cast("Awaitable[object]", handler(*arguments))
    if type(result) in _PLAIN:
        yield result
        return
    async with aclosing(_items(result, threads)) as items:
        async for item in items:
            yield item


async def _threaded(
    handler: EndpointHandler, arguments: tuple[object, ...], threads: Callable[[], Executor]
) -> AsyncGenerator[object, None]:
    """Yield what a plain function returns. It may block, so it runs in a thread; what it returns does not."""
    result = await asyncio.get_running_loop().run_in_executor(threads(), _call, handler, arguments)
    if inspect.isawaitable(result):
        result = await result
    async with aclosing(_items(result, threads)) as items:
        async for item in items:
            yield item


async def _items(result: object, threads: Callable[[], Executor]) -> AsyncGenerator[object, None]:
    """Yield what there is in the result of a handler, whichever kind it is."""
    if isinstance(result, AsyncGenerator):
        async with aclosing(result) as items:
            async for item in items:
                yield item
    elif isinstance(result, AsyncIterator):
        async for item in result:
            yield item
    elif isinstance(result, Iterator):
        async with aclosing(iterate_beside(result, threads())) as items:
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


async def iterate_beside(items: Iterator[object], threads: Executor) -> AsyncGenerator[object, None]:
    """Iterate in a thread. The lock keeps `close` from a generator that is still in a step."""
    loop = asyncio.get_running_loop()
    running = threading.Lock()
    context = copy_context()

    def step() -> object:
        with running:  # outside of the context, which has one user at a time, too
            return context.run(next, items, _END)

    def close() -> None:
        with running:
            if hasattr(items, "close"):
                context.run(items.close)

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

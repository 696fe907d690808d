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
from typing import cast

from dynamo._core import request_plane
from dynamo._core.context import Context, current_context
from dynamo._core.errors import (
    RELAYED,
    CannotConnect,
    DynamoError,
    EngineShutdown,
    HandlerError,
    InvalidArgument,
    Overloaded,
    WorkerUnavailable,
)
from dynamo.metrics._scope import PROCESS, Scope, current_scope
from dynamo.runtime import _codec
from dynamo.runtime._admission import Admission
from dynamo.runtime._arguments import check_callable
from dynamo.runtime._blame import blame, first_line, user_traceback
from dynamo.runtime._measured import ErrorType, Measured

logger = logging.getLogger(__name__)

#: `(request)` or `(request, context)`; an async generator, an async function, or their sync kin.
EndpointHandler = Callable[..., object]

_END = object()

#: What most handlers return: one item, which needs no closer look.
_PLAIN = frozenset((dict, list, str, int, float, bool, type(None)))


def serve_bytes(
    handler: EndpointHandler,
    decode: Callable[[bytes], object],
    threads: Callable[[], Executor],
    measured: Measured,
    *,
    admission: Admission | None = None,
    encode: Callable[[object], bytes] = _codec.encode,
    scope: Scope = PROCESS,
) -> request_plane.Handler:
    """Return `handler` as the request plane wants it: bytes in, an async iterator of bytes out.

    What it measures itself has the labels of `scope`.
    """
    takes_context = _takes_context(handler)
    # Asked once: for every request it would cost more than all that is counted.
    is_stream = inspect.isasyncgenfunction(handler)
    is_async = inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None))  # noqa: B004
    clock = asyncio.get_running_loop().time

    def serve(payload: bytes, context: Context) -> AsyncIterator[bytes]:
        measured.requests += 1
        measured.request_bytes += len(payload)
        current_context.set(context)  # of the task of this request, and so of its handler
        current_scope.set(scope)
        try:
            request = _codec.decode_request(payload, decode)
        except BaseException:
            measured.errors[ErrorType.DESERIALIZATION] += 1
            measured.end(0.0)
            raise
        arguments = (request, context) if takes_context else (request,)
        if is_async:
            answer = _Awaited(handler, arguments, threads)
            encoded: _Encoded = _EncodedAnswer(answer, context, measured, clock, encode)
        else:
            items = handler(*arguments) if is_stream else _threaded(handler, arguments, threads)
            encoded = _Encoded(cast("AsyncGenerator[object, None]", items), context, measured, clock, encode)
        return encoded if admission is None else _Admitted(encoded, admission)

    return serve


class _Encoded:
    """The items of a handler, as bytes, and how they ended, counted.

    A class, because a generator around a generator costs a microsecond more. What is counted costs at the
    beginning and at the end of a request, and nothing for an item.
    """

    __slots__ = ("_clock", "_context", "_encode", "_items", "_measured", "_started_at", "on_end")

    #: True once the only item is handed out.
    is_done = False

    def __init__(
        self,
        items: _HandlerItems,
        context: Context,
        measured: Measured,
        clock: Callable[[], float],
        encode: Callable[[object], bytes],
    ) -> None:
        self._items = items
        self._encode = encode
        self._context = context
        self._measured: Measured | None = measured  # None once the end is counted
        self._clock = clock
        self._started_at = clock()
        #: Called once, at the end.
        self.on_end: Callable[[], None] | None = None

    def __aiter__(self) -> _Encoded:
        return self

    async def __anext__(self) -> bytes:
        try:
            item = await self._items.__anext__()
        except StopAsyncIteration:
            measured, self._measured = self._measured, None
            if measured is not None:
                self._end(measured)
            raise
        except BaseException as error:
            if isinstance(error, CannotConnect | EngineShutdown | Overloaded | WorkerUnavailable) and error.is_remote:
                error.details[RELAYED] = 1  # who refused was somebody further on: this one has begun
            self._fail(ErrorType.GENERATE, error)
            raise
        try:
            return self._encode(item)
        except Exception as error:
            raise self._unsendable(error) from error

    async def aclose(self) -> None:
        """End the handler before its items are over; a request that nobody ended could not be answered."""
        try:
            await self._items.aclose()
        finally:
            self._fail(ErrorType.PUBLISH_RESPONSE)

    def refuse(self, error: BaseException) -> None:
        """It will not begin."""
        measured, self._measured = self._measured, None
        if measured is not None:
            measured.cancelled += not isinstance(error, Overloaded)  # who refuses counts that
            self._end(measured)

    def _end(self, measured: Measured) -> None:
        self._context.is_over = True
        measured.end(self._clock() - self._started_at)
        if self.on_end is not None:
            self.on_end()

    def _unsendable(self, error: Exception) -> HandlerError:
        """Tell of an item that cannot be sent. Unlike a request of that kind, it is the fault of this side."""
        reason = error.__cause__ if isinstance(error, InvalidArgument) and error.__cause__ is not None else error
        what = "an item of the answer cannot be sent"
        if self._measured is not None:
            endpoint, request_id = self._measured.endpoint, self._context.request_id
            logger.error("%s failed in request %s: %s: %s", endpoint, request_id, what, blame(reason))
        self._fail(ErrorType.SERIALIZATION)
        details = {"type_name": type(reason).__name__, "code": request_plane.UNSENDABLE}
        return HandlerError(f"{what}: {first_line(reason)}", **details)

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
        self._end(measured)


class _EncodedAnswer(_Encoded):
    """What an async function returns, as bytes. If that was one item, the request ends with it."""

    __slots__ = ("_answer", "is_done")

    def __init__(
        self,
        answer: _Awaited,
        context: Context,
        measured: Measured,
        clock: Callable[[], float],
        encode: Callable[[object], bytes],
    ) -> None:
        super().__init__(answer, context, measured, clock, encode)
        self._answer = answer
        self.is_done = False

    async def __anext__(self) -> bytes:
        payload = await super().__anext__()
        if self._answer.is_done:
            self.is_done = True
            measured, self._measured = self._measured, None
            if measured is not None:
                self._end(measured)
        return payload


class _Admitted:
    """The items of a request that needs a place to begin. Once it has one, each item costs a call more."""

    __slots__ = ("_admission", "_encoded", "_step")

    def __init__(self, encoded: _Encoded, admission: Admission) -> None:
        self._encoded = encoded
        self._admission = admission
        self._step: Callable[[], Awaitable[bytes]] = self._begin

    def __aiter__(self) -> _Admitted:
        return self

    def __anext__(self) -> Awaitable[bytes]:
        return self._step()

    @property
    def is_done(self) -> bool:
        return self._encoded.is_done

    async def _begin(self) -> bytes:
        try:
            await self._admission.enter()
        except BaseException as error:
            self._encoded.refuse(error)
            raise
        began_at = self._admission.clock()
        self._encoded.on_end = lambda: self._admission.leave(began_at)
        self._step = self._encoded.__anext__
        return await self._step()

    async def aclose(self) -> None:
        await self._encoded.aclose()


def _log_failure(endpoint: str, request_id: str, error: BaseException) -> None:
    """Say where a handler failed: its caller hears what was raised, and only this process knows where.

    An error of ours is not told of: it is an answer, or was told of where it began.
    """
    logger.error("%s failed in request %s: %s", endpoint, request_id, blame(error))
    if logger.isEnabledFor(logging.DEBUG):
        logger.debug("%s", user_traceback(error))


class _Awaited:
    """What an async function returns: most often one item, and then it is known that no other will come."""

    __slots__ = ("_arguments", "_handler", "_items", "_threads", "is_done")

    def __init__(
        self, handler: EndpointHandler, arguments: tuple[object, ...], threads: Callable[[], Executor]
    ) -> None:
        self._handler: EndpointHandler | None = handler  # None once it was called
        self._arguments = arguments
        self._threads = threads
        self._items: AsyncGenerator[object, None] | None = None
        self.is_done = False

    async def __anext__(self) -> object:
        handler, self._handler = self._handler, None
        if handler is not None:
            try:
                result = await cast("Awaitable[object]", handler(*self._arguments))
            except StopAsyncIteration as error:  # it would be the end of an answer without items
                raise _no_signal(error) from error
            if type(result) in _PLAIN:
                self.is_done = True
                return result
            self._items = _items(result, self._threads)
        if self._items is None:
            raise StopAsyncIteration
        return await self._items.__anext__()

    async def aclose(self) -> None:
        self._handler = None
        if self._items is not None:
            await self._items.aclose()


#: What a handler yields or returns, item by item.
_HandlerItems = AsyncGenerator[object, None] | _Awaited


async def _threaded(
    handler: EndpointHandler, arguments: tuple[object, ...], threads: Callable[[], Executor]
) -> AsyncGenerator[object, None]:
    """Yield what a plain function returns. It may block, so it runs in a thread; what it returns does not."""
    work = threads().submit(copy_context().run, _call, handler, arguments)
    running = asyncio.wrap_future(work)
    try:
        result = await asyncio.shield(running)
    except asyncio.CancelledError:
        if not work.cancel():  # it has begun, and so it goes on with what it holds: its place is not free yet
            running.add_done_callback(asyncio.Future.exception)  # nobody is left to hear of it
            await asyncio.wait([running])
        raise
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
    except (StopIteration, GeneratorExit) as error:
        # A future cannot hold the one, and who awaits it as a generator takes the other for its own end.
        raise _no_signal(error) from error


def _no_signal(error: BaseException) -> RuntimeError:
    """What only says to Python that an iteration ends is an error if a handler raises it."""
    return RuntimeError(f"the handler raised {type(error).__name__}")


async def iterate_beside(items: Iterator[object], threads: Executor) -> AsyncGenerator[object, None]:
    """Iterate in a thread. The lock keeps `close` from a generator that is still in a step."""
    loop = asyncio.get_running_loop()
    running = threading.Lock()
    context = copy_context()

    def step() -> object:
        with running:  # outside of the context, which has one user at a time, too
            return context.run(_call, next, (items, _END))

    def close() -> None:
        with running:
            if hasattr(items, "close"):
                context.run(_call, items.close, ())

    try:
        while (item := await loop.run_in_executor(threads, step)) is not _END:
            yield item
    finally:
        await asyncio.shield(loop.run_in_executor(threads, close))


def _takes_context(handler: EndpointHandler) -> bool:
    check_callable("handler", handler, "an async generator, an async function or a function of (request[, context])")
    parameters = inspect.signature(handler).parameters.values()
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return True
    required = [p for p in positional if p.default is p.empty]
    if not positional or len(required) > 2:
        name = getattr(handler, "__name__", repr(handler))
        raise TypeError(f"{name} cannot serve an endpoint: it must take (request) or (request, context)")
    return len(positional) >= 2 and (len(required) == 2 or positional[1].name in ("context", "ctx"))

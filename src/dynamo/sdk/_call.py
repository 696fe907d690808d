"""One call of an endpoint of another service."""

from __future__ import annotations

import asyncio
import sys
import warnings
from collections.abc import AsyncIterator, Coroutine, Generator
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING

from dynamo._core.context import Context
from dynamo._core.errors import HandlerError
from dynamo.sdk._payload import Misfit, Reader

if TYPE_CHECKING:
    from collections.abc import Callable

    from dynamo.runtime import Client, ResponseStream
    from dynamo.runtime._codec import JsonValue


# What a call is used for.
_NEW, _AWAITED, _ITERATED, _READING, _CLOSED = "new", "awaited", "iterated", "being read", "closed"


@dataclass(slots=True)
class Callee:
    """What the calls of one endpoint have in common."""

    #: As it stands in messages: `Worker.generate`.
    name: str
    connect: Callable[[], Coroutine[object, object, Client]]
    #: How an item of the answer becomes what the annotation of the endpoint says.
    read: Reader | None
    timeout_s: float | None
    #: The client, once there is one.
    client: Client | None = None


class Call(Coroutine[object, object, object]):
    """A call that was not sent yet: `await` it for its answer, or iterate over a stream of them. Once.

    What it hands out is what the annotation of the endpoint says: a model is validated, also from JSON text.
    Leaving the loop, closing the call or dropping it cancels the work behind it; so does a task that runs
    it and is cancelled.
    """

    __slots__ = (
        "__weakref__",
        "_callee",
        "_context",
        "_items",
        "_line",
        "_link",
        "_request",
        "_running",
        "_state",
        "_stream",
    )

    def __init__(self, callee: Callee, request: object, context: Context | None) -> None:
        self._callee = callee
        self._request = request
        self._context = context
        # Where it was made, for those who forget to await it.
        maker = sys._getframe(2)
        self._line = (maker.f_code.co_filename, maker.f_lineno)
        # The mutable state: what the call is used for, the stream once it is open, the items that arrived and
        # were not read yet, the last first, the coroutine of a task that runs the call, and what ends it with
        # the outer request.
        self._state = _NEW
        self._stream: ResponseStream[JsonValue] | None = None
        self._items: list[JsonValue] = []
        self._running: Coroutine[object, object, object] | None = None
        self._link: Callable[[bool], None] | None = None

    # Awaited: one answer.

    def __await__(self) -> Generator[object, None, object]:
        if self._state != _NEW:
            raise self._used_already()
        self._state = _AWAITED
        return self._answer().__await__()

    async def _answer(self) -> object:
        """The only answer, or the first of a stream, whose rest is given up. None if there was none.

        It counts once the stream has ended well or has gone on, so that an error right after it is not lost
        and the handler can finish what it does after its last answer.
        """
        stream: ResponseStream[JsonValue] | None = None
        try:
            stream = await self._open()
            items = await stream.batch()
            if not items or (len(items) == 1 and not await stream.batch()):
                stream = None  # it has ended
            return self._read(items[0]) if items else None
        finally:
            if stream is not None:
                await stream.aclose()
            self._unlink()

    # Run by a task: `create_task` wants a coroutine, and to a type checker a call of an async method is one.

    def send(self, value: object) -> object:
        return self._coroutine().send(value)

    def throw(
        self, kind: type[BaseException] | BaseException, value: object = None, traceback: TracebackType | None = None
    ) -> object:
        error = kind if isinstance(kind, BaseException) else value if isinstance(value, BaseException) else kind()
        return self._coroutine().throw(error if traceback is None else error.with_traceback(traceback))

    def close(self) -> None:
        """Give up a call that nobody has begun to read, as with any coroutine."""
        if self._running is not None:
            self._running.close()
        elif self._state == _NEW:
            self._state = _CLOSED

    def _coroutine(self) -> Coroutine[object, object, object]:
        if self._running is None:
            if self._state != _NEW:
                raise self._used_already()
            self._state = _AWAITED
            self._running = self._answer()
        return self._running

    # Iterated: a stream of answers.

    def __aiter__(self) -> AsyncIterator[object]:
        if self._state == _AWAITED:
            raise self._used_already()
        return self

    async def __anext__(self) -> object:
        if not self._items:
            await self._fill()
        item = self._items.pop()
        if self._callee.read is None:
            return item
        try:
            return self._read(item)
        except BaseException:
            await self.aclose()
            raise

    async def _fill(self) -> None:
        """Wait for items. Raises StopAsyncIteration at the end."""
        if self._state == _CLOSED:
            raise StopAsyncIteration
        if self._state in (_AWAITED, _READING):
            raise RuntimeError(f"the call of {self._callee.name} has one reader, and another one waits on it")
        self._state = _READING
        try:
            if self._stream is None:
                self._stream = await self._open()
            items = await self._stream.batch() if self._state == _READING else []
        except BaseException:
            await self.aclose()
            raise
        if not items or self._state != _READING:
            await self.aclose()
            raise StopAsyncIteration
        self._state = _ITERATED
        items.reverse()
        self._items = items

    async def aclose(self) -> None:
        """Cancel the work behind the call. A second call changes nothing."""
        self._state = _CLOSED
        self._items = []
        self._unlink()
        if self._stream is not None:
            await self._stream.aclose()

    async def __aenter__(self) -> Call:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if self._state == _NEW:
            message = f"the call of {self._callee.name} was never awaited nor iterated, so it was not sent"
            warnings.warn_explicit(message, RuntimeWarning, *self._line)
        self._unlink()

    # Both.

    def _used_already(self) -> RuntimeError:
        return RuntimeError(f"the call of {self._callee.name} is {self._state} already; make another one")

    async def _open(self) -> ResponseStream[JsonValue]:
        client = self._callee.client or await self._callee.connect()
        request, self._request = self._request, None
        return await client.generate(request, annotated=False, context=self._own_context())

    def _read(self, item: JsonValue) -> object:
        if self._callee.read is None:
            return item
        try:
            return self._callee.read(item)
        except Misfit as error:
            message = f"the answer of {self._callee.name} does not fit its annotation: {error}"
            raise HandlerError(message, type_name="InvalidAnswer") from None

    def _own_context(self) -> Context | None:
        """The context of the request that is being served, within the time limit of the called service."""
        outer, timeout_s = self._context, self._callee.timeout_s
        if timeout_s is None:
            return outer
        deadline = asyncio.get_running_loop().time() + timeout_s
        if outer is None:
            return Context(deadline=deadline)
        if outer.deadline is not None and outer.deadline <= deadline:
            return outer
        inner = Context(outer.request_id, outer.metadata, deadline=deadline)
        self._link = partial(_end, inner)
        outer.watch(self._link)
        return inner

    def _unlink(self) -> None:
        if self._link is not None and self._context is not None:
            self._context.unwatch(self._link)
            self._link = None


# A function, so that the outer request does not hold the call, which ends when it is dropped.
def _end(context: Context, killed: bool) -> None:
    if killed:
        context.kill()
    else:
        context.stop_generating()

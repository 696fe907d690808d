"""The reading end of a call: the items of its response, decoded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from dynamo._core.errors import DynamoError, ProtocolError
from dynamo._core.stability import stable
from dynamo.runtime import _codec
from dynamo.runtime._call import Call

T = TypeVar("T")


@stable(since="0.1", constructor=False)
class ResponseStream(Generic[T]):
    """The responses to one request, in order.

    Closing it, dropping it, or leaving its `async with` block cancels the work behind it. It ends with
    an error if the handler raised one, if the worker was lost, or if it gave no item in time; it never just ends.
    """

    __slots__ = ("_arrived", "_call", "_decode", "_next")

    def __init__(self, call: Call, decode: Callable[[bytes], T]) -> None:
        self._call = call
        self._decode = decode
        # What has arrived, and the position in it of the next item to hand out.
        self._arrived: list[bytes] = []
        self._next = 0

    @property
    def instance_id(self) -> int:
        """Who serves the request. Until the first item is there, another instance may yet take it over."""
        return self._call.instance_id

    def __aiter__(self) -> ResponseStream[T]:
        return self

    async def __anext__(self) -> T:
        if self._next == len(self._arrived):
            # As in batch(): a call of a common method would cost as much as an item.
            call = self._call
            call.waits += 1
            try:
                arrived = await call.items.batch()
            except DynamoError as error:
                arrived = await call.recover(error)
            finally:
                call.waits += 1
            if not arrived:
                call.end()
                raise StopAsyncIteration
            if not call.has_begun:
                call.begin()
            self._arrived, self._next = arrived, 0
        item = self._arrived[self._next]
        self._next += 1
        try:
            return self._decode(item)
        except _codec.UNREADABLE as error:
            raise self._unreadable(error) from error

    async def batch(self) -> list[T]:
        """Return every item that has arrived, waiting for the first; an empty list at the end."""
        arrived, self._arrived = self._arrived[self._next :], []
        self._next = 0
        if not arrived:
            call = self._call
            call.waits += 1
            try:
                arrived = await call.items.batch()
            except DynamoError as error:
                arrived = await call.recover(error)
            finally:
                call.waits += 1
            if not arrived:
                call.end()
                return []
            if not call.has_begun:
                call.begin()
        try:
            return list(map(self._decode, arrived))
        except _codec.UNREADABLE as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> ProtocolError:
        return ProtocolError(f"instance {self.instance_id:x} sent an item that cannot be read: {error}")

    async def aclose(self) -> None:
        """Cancel the work behind the stream. A second call changes nothing."""
        self._arrived, self._next = [], 0
        self._call.leave()

    async def __aenter__(self) -> ResponseStream[T]:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # A reader that breaks out of its loop and drops the stream must not leave the work running.
        call: Call | None = getattr(self, "_call", None)
        if call is not None and call.is_open and not call.loop.is_closed():
            if call.items.ended and asyncio._get_running_loop() is call.loop:
                call.leave()  # the usual end of a reader that knows how many items there are
            else:
                call.loop.call_soon_threadsafe(call.leave)

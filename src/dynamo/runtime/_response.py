"""The reading end of a call: the items of its response, decoded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from dynamo._core import request_plane
from dynamo._core.errors import Disconnected, ProtocolError
from dynamo.runtime import _codec

T = TypeVar("T")


class ResponseStream(Generic[T]):
    """The responses to one request, in order.

    Closing it, dropping it, or leaving its `async with` block cancels the work behind it. It ends with
    an error if the handler raised one or if the worker was lost; it never just ends.
    """

    __slots__ = ("_arrived", "_decode", "_items", "_loop", "_next", "_on_lost", "instance_id")

    def __init__(
        self,
        items: request_plane.ResponseStream,
        decode: Callable[[bytes], T],
        instance_id: int,
        on_lost: Callable[[int], None],
    ) -> None:
        self._items = items
        self._on_lost = on_lost
        self._decode = decode
        self._loop = asyncio.get_running_loop()
        # What has arrived, and the position in it of the next item to hand out.
        self._arrived: list[bytes] = []
        self._next = 0
        #: Who serves the request.
        self.instance_id = instance_id

    def __aiter__(self) -> ResponseStream[T]:
        return self

    async def __anext__(self) -> T:
        if self._next == len(self._arrived):
            try:
                self._arrived, self._next = await self._items.batch(), 0
            except Disconnected as error:
                self._note_loss(error)
                raise
            if not self._arrived:
                raise StopAsyncIteration
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
        try:
            arrived = arrived or await self._items.batch()
        except Disconnected as error:
            self._note_loss(error)
            raise
        try:
            return list(map(self._decode, arrived))
        except _codec.UNREADABLE as error:
            raise self._unreadable(error) from error

    def _note_loss(self, error: Disconnected) -> None:
        # An instance that tells of the loss of another one is well.
        if not error.is_remote:
            self._on_lost(self.instance_id)

    def _unreadable(self, error: Exception) -> ProtocolError:
        return ProtocolError(f"instance {self.instance_id} sent an item that cannot be read: {error}")

    async def aclose(self) -> None:
        """Cancel the work behind the stream. A second call changes nothing."""
        self._arrived, self._next = [], 0
        await self._items.aclose()

    async def __aenter__(self) -> ResponseStream[T]:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # A reader that breaks out of its loop and drops the stream must not leave the work running.
        items = getattr(self, "_items", None)
        if items is not None and not items.ended and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(items.leave)

"""Requests within one process: no bytes cross a socket, every other rule holds.

The reference for the other planes, and the network of the simulator. Several runtimes share one
`InprocPlane` to reach each other.
"""

from __future__ import annotations

import asyncio

from dynamo._core.context import Context
from dynamo._core.errors import CannotConnect, Overloaded, from_wire, to_wire
from dynamo._core.limits import STREAM_WINDOW_BYTES, STREAMS_MAX
from dynamo._core.request_plane._responder import Responder, Serving, end_all
from dynamo._core.request_plane._stream import ItemStream
from dynamo._core.request_plane.base import Address, Handler, check_request, closed


class InprocPlane:
    """A request plane for the handlers of one process."""

    def __init__(self) -> None:
        self._listeners: dict[Address, InprocListener] = {}
        self._count = 0
        self._closed = False

    async def listen(self, handler: Handler) -> InprocListener:
        if self._closed:
            raise closed()
        self._count += 1
        listener = InprocListener(self, f"inproc://{self._count}", handler)
        self._listeners[listener.address] = listener
        return listener

    async def call(self, to: Address, request: bytes, context: Context) -> ItemStream:
        check_request(request, context.request_id, context.metadata)
        if self._closed:
            raise closed()
        listener = self._listeners.get(to)
        if listener is None:
            raise CannotConnect(f"nothing listens at {to}", address=to)
        return listener.open(request, context)

    async def close(self) -> None:
        self._closed = True
        await asyncio.gather(*(listener.close() for listener in list(self._listeners.values())))

    def forget(self, address: Address) -> None:
        """Take no more requests for `address`."""
        self._listeners.pop(address, None)


class InprocListener(Serving):
    """A handler that takes requests."""

    def __init__(self, plane: InprocPlane, address: Address, handler: Handler) -> None:
        super().__init__(handler)
        self._plane = plane
        self._address = address

    @property
    def address(self) -> Address:
        return self._address

    def open(self, request: bytes, context: Context) -> ItemStream:
        """Start a request and return the reading end of its responses."""
        if len(self.running) >= STREAMS_MAX:
            raise Overloaded(f"{STREAMS_MAX} requests to {self._address} are open already", address=self._address)
        inner = Context(context.request_id, dict(context.metadata), deadline=context.deadline)
        responder = _InprocResponder(inner, STREAM_WINDOW_BYTES)
        stream = responder.stream = _InprocStream(context, responder)
        task = responder.start(self, request)
        self.running[task] = responder
        task.add_done_callback(self.running.pop)
        stream.follow_context()
        return stream

    async def close(self, drain_s: float = 0.0) -> None:
        self._plane.forget(self._address)
        await end_all(self.running, drain_s)


class _InprocStream(ItemStream):
    __slots__ = ("_responder",)

    def __init__(self, context: Context, responder: Responder) -> None:
        super().__init__(context, STREAM_WINDOW_BYTES)
        self._responder = responder

    def on_credit(self, size_bytes: int) -> None:
        self._responder.add_credit(size_bytes)

    def on_stop(self) -> None:
        self._responder.context.stop_generating()

    def on_end(self, abandoned: bool) -> None:
        if abandoned:
            self._responder.abandon()


class _InprocResponder(Responder):
    __slots__ = ("stream",)

    stream: ItemStream

    def send_item(self, item: bytes) -> None:
        self.stream.push(self.count, [item])

    def send_final(self) -> None:
        self.stream.finish(self.count)

    def send_error(self, error: BaseException) -> None:
        # Through the wire form, so that a caller sees what it would see over a network.
        self.stream.fail(from_wire(to_wire(error)))

    def blocked(self) -> bool:
        return False

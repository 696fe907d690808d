"""The request plane: one request, many responses, and the truth about how it ended.

A response is a stream of items, each some bytes. A stream ends in one of three ways: by its final
frame (the iterator stops), by an error of the handler (raised with its cause chain), or because the
peer was lost (`Disconnected`). It never just ends. The suite that every implementation passes is
`tests/conformance/request_plane.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Protocol

from dynamo._core.context import Context

#: A response stream may be this far ahead of its reader before its producer is paused.
STREAM_WINDOW_BYTES = 1 << 20
#: The largest request, and the largest item of a response.
MESSAGE_BYTES_MAX = 32 << 20
#: Streams that one connection carries at a time.
STREAMS_MAX = 65536

#: Serves one request: takes its bytes and its context, yields the items of the response.
Handler = Callable[[bytes, Context], AsyncIterator[bytes]]

#: Where a handler listens. Opaque to everyone but the plane that made it.
Address = str


class ResponseStream(Protocol):
    """The responses to one request, in order.

    Closing it (or dropping it) cancels the work behind it.
    """

    def __aiter__(self) -> ResponseStream: ...

    async def __anext__(self) -> bytes:
        """Return the next item."""

    async def batch(self) -> list[bytes]:
        """Return every item that has arrived, waiting for the first; an empty list at the end."""

    async def aclose(self) -> None:
        """Cancel the work behind the stream. A second call changes nothing."""


class Listener(Protocol):
    """A handler that takes requests."""

    @property
    def address(self) -> Address: ...

    async def close(self, drain_s: float = 0.0) -> None:
        """Refuse new requests, give those that run `drain_s` to finish, then end them with an error."""


class RequestPlane(Protocol):
    """Carries requests to handlers, and their responses back."""

    async def listen(self, handler: Handler) -> Listener:
        """Start to serve `handler`; return when it can be called."""

    async def call(self, to: Address, request: bytes, context: Context) -> ResponseStream:
        """Send a request. Raises `CannotConnect` if the peer was not reached."""

    async def close(self) -> None:
        """Close every connection and listener."""

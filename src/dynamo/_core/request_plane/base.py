"""The request plane: one request, many responses, and the truth about how it ended.

A response is a stream of items, each some bytes. A stream ends in one of three ways: by its final
frame (the iterator stops), by an error of the handler (raised with its cause chain), or because the
peer was lost (`Disconnected`). It never just ends. The suites that every implementation
passes are `tests/conformance/test_request_plane*.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Protocol

from dynamo._core.context import Context
from dynamo._core.errors import InvalidArgument

#: A response stream may be this far ahead of its reader before its producer is paused.
STREAM_WINDOW_BYTES = 1 << 20
#: The largest request, and the largest item of a response.
MESSAGE_BYTES_MAX = 32 << 20
#: What else a request may carry.
REQUEST_ID_CHARS_MAX = 256
METADATA_BYTES_MAX = 64 << 10
#: Streams that one connection carries at a time.
STREAMS_MAX = 65536
#: A stream whose reader takes nothing for so long is ended: its handler may hold something that others need.
READER_TIMEOUT_S = 600.0
#: So long may handlers that were ended take to clean up before a listener closes without them.
CLEANUP_TIMEOUT_S = 5.0

#: Serves one request: takes its bytes and its context, yields the items of the response.
Handler = Callable[[bytes, Context], AsyncIterator[bytes]]

#: Where a handler listens. Opaque to everyone but the plane that made it.
Address = str


class ResponseStream(Protocol):
    """The responses to one request, in order. Closing it cancels the work behind it."""

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
        """Refuse new requests, give those that run `drain_s` to finish, then end them with an error.

        A handler that is ended may clean up for `CLEANUP_TIMEOUT_S`; its caller is told at once.
        """


class RequestPlane(Protocol):
    """Carries requests to handlers, and their responses back."""

    async def listen(self, handler: Handler) -> Listener:
        """Start to serve `handler`; return when it can be called."""

    async def call(self, to: Address, request: bytes, context: Context) -> ResponseStream:
        """Send a request. Raises `CannotConnect` if the peer was not reached."""

    async def close(self) -> None:
        """Close every connection and listener. A closed plane takes no requests and no handlers."""


def check_request(payload: bytes, request_id: str, metadata: dict[str, str]) -> None:
    """Raise `InvalidArgument` for a request that no plane carries. Both ends ask."""
    if len(payload) > MESSAGE_BYTES_MAX:
        raise InvalidArgument(f"a request of {len(payload)} bytes exceeds the limit of {MESSAGE_BYTES_MAX}")
    if len(request_id) > REQUEST_ID_CHARS_MAX or not (request_id.isascii() or _is_text(request_id)):
        raise InvalidArgument(f"the request id {request_id[:80]!r} is not a text of at most {REQUEST_ID_CHARS_MAX}")
    if metadata:
        if not all(_is_text(key) and _is_text(value) for key, value in metadata.items()):
            raise InvalidArgument("the metadata of a request maps texts to texts")
        if sum(len(key) + len(value) for key, value in metadata.items()) > METADATA_BYTES_MAX:
            raise InvalidArgument(f"the metadata of a request exceeds the limit of {METADATA_BYTES_MAX} bytes")


def _is_text(value: object) -> bool:
    """Whether `value` is a str that can be encoded: one read from JSON or a file name need not be."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False

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
from dynamo._core.errors import DynamoError, InvalidArgument
from dynamo._core.limits import MESSAGE_BYTES_MAX, METADATA_BYTES_MAX, METADATA_ENTRIES_MAX, REQUEST_ID_CHARS_MAX

#: A stream whose reader takes nothing for so long is ended: its handler may hold something that others need.
READER_TIMEOUT_S = 60.0
#: So long may handlers that were ended take to clean up before a listener closes without them.
CLEANUP_TIMEOUT_S = 5.0

#: Serves one request: takes its bytes and its context, yields the items of the response. An iterator may have a
#: true `is_done` when its only item was handed out: then it is not asked for another one.
Handler = Callable[[bytes, Context], AsyncIterator[bytes]]

#: The code, among the details of an error, of an item that cannot be sent: its handler's fault, not its caller's.
UNSENDABLE = "unsendable_item"

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

    def leave(self) -> None:
        """What `aclose` does, for callers that cannot wait. A reader that waits finds the end."""

    @property
    def ended(self) -> bool:
        """Whether nothing more arrives; what has arrived may still be read."""

    @property
    def failure(self) -> BaseException | None:
        """What its reader is yet to be told, once the items before it are read."""


class Listener(Protocol):
    """A handler that takes requests."""

    #: The bytes of the items that were sent, of requests that have ended.
    sent_bytes: int

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
        """Send a request. Raises `CannotConnect` if the peer was not reached.

        A plane that is closed raises a plain `DynamoError`: it is no fault of the peer, and no time mends it.
        """

    async def close(self) -> None:
        """Close every connection and listener. A closed plane takes no requests and no handlers."""


def closed() -> DynamoError:
    """What is raised by a plane that is closed."""
    return DynamoError("this request plane is closed; open a new one")


def check_request(payload: bytes, request_id: str, metadata: dict[str, str]) -> None:
    """Raise `InvalidArgument` for a request that no plane carries. Both ends ask."""
    if len(payload) > MESSAGE_BYTES_MAX:
        raise InvalidArgument(f"a request of {len(payload)} bytes exceeds the limit of {MESSAGE_BYTES_MAX}")
    is_text = (type(request_id) is str and request_id.isascii()) or _is_text(request_id)
    if not is_text or len(request_id) > REQUEST_ID_CHARS_MAX:
        raise InvalidArgument(
            f"the request id {str(request_id)[:80]!r} is not a text of at most {REQUEST_ID_CHARS_MAX} characters"
        )
    if metadata:
        if len(metadata) > METADATA_ENTRIES_MAX:
            raise InvalidArgument(
                f"the metadata of a request has {len(metadata)} entries; the limit is {METADATA_ENTRIES_MAX}"
            )
        if not all(_is_text(key) and _is_text(value) for key, value in metadata.items()):
            raise InvalidArgument("the metadata of a request maps texts to texts")
        size_bytes = sum(len(key.encode()) + len(value.encode()) for key, value in metadata.items())
        if size_bytes > METADATA_BYTES_MAX:
            raise InvalidArgument(f"the metadata of a request is {size_bytes} bytes; the limit is {METADATA_BYTES_MAX}")


def _is_text(value: object) -> bool:
    """Whether `value` is a str that can be encoded: one read from JSON or a file name need not be."""
    try:
        return isinstance(value, str) and (value.isascii() or value.encode() is not None)
    except UnicodeEncodeError:
        return False

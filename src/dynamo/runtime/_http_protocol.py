"""One HTTP connection, with the limits that uvicorn's own protocol lacks.

A head has a size and a deadline; a client that stops reading is cut after a while, with at most the
transport's buffer held for it meanwhile (writing waits, and so does everything that produces).

A request that offers a protocol which is not served, such as the `Upgrade: h2c` of Java's HttpClient, is answered
as if it did not: HTTP lets a server ignore that. httptools takes the body for the other protocol already, so the
head is read once more without the offer.
"""

from __future__ import annotations

import asyncio
import logging

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES_MAX = 64 << 10
HEADERS_MAX = 100
HEAD_TIMEOUT_S = 10.0
READER_STALL_S = 60.0
#: Of a request that is answered already, so much is read and thrown away. Closing with bytes unread
#: would reset the connection, and the client might never see the answer.
DISCARDED_BYTES_MAX = 64 << 20
LINGER_S = 2.0

logger = logging.getLogger(__name__)

_PHRASES = {400: b"Bad Request", 408: b"Request Timeout", 431: b"Request Header Fields Too Large"}


class HeadTooLarge(Exception):
    """The head of a request is over a limit. It never leaves the connection."""


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's connection over httptools, with limits."""

    head_timeout_s = HEAD_TIMEOUT_S
    reader_stall_s = READER_STALL_S

    _head_timer: asyncio.TimerHandle | None = None
    _stall_timer: asyncio.TimerHandle | None = None
    _linger_timer: asyncio.TimerHandle | None = None
    _in_head = True
    _head_bytes = 0
    _discarded_bytes = 0
    _refused = False
    #: The head that was read last offers a protocol which is not served, and is about to be read once more.
    _reads_again = False

    # The base class's signatures are those of asyncio, narrowed.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        self._stop_stall_timer()
        if self._linger_timer is not None:
            self._linger_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            self._discard(data)
            return
        if self._in_head:
            if self._head_timer is None:
                self._start_head_timer()
            # Counted before parsing, so that one endless header is never held.
            self._head_bytes += len(data)
        self._unset_keepalive_if_required()
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self.send_400_response("")
        if self._in_head and self._head_bytes > HEAD_BYTES_MAX and not self._refused:
            self._refuse(431, "headers_too_large", _TOO_LARGE)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        if len(self.headers) > HEADERS_MAX:
            raise HeadTooLarge

    def on_headers_complete(self) -> None:
        if sum(len(name) + len(value) for name, value in self.headers) + len(self.url) > HEAD_BYTES_MAX:
            raise HeadTooLarge
        self._reads_again = self._offers_in_vain()
        if self._reads_again:
            return
        self._stop_head_timer()
        self._in_head = False
        self._head_bytes = 0
        self._discarded_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        if self.cycle.response_complete:
            self._discard(body)

    def on_message_complete(self) -> None:
        if self._reads_again:
            return
        super().on_message_complete()
        # What follows is the head of the next request.
        self._in_head = True

    def send_400_response(self, msg: str) -> None:
        if len(self.headers or ()) > HEADERS_MAX or self._head_bytes > HEAD_BYTES_MAX:
            self._refuse(431, "headers_too_large", _TOO_LARGE)
        else:
            self._refuse(400, "bad_request", "the request is not valid HTTP/1.1")

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stall_timer is None:
            self._stall_timer = self.loop.call_later(self.reader_stall_s, self._cut)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_stall_timer()

    def _parse(self, data: bytes) -> None:
        rest = memoryview(data)
        while True:
            try:
                self.parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as offer:
                if not self._reads_again:
                    if self._should_upgrade():
                        self.handle_websocket_upgrade()
                    return
                rest = rest[offer.args[0] :]
            head = self._head_without_offer()
            # The one before may count the connection as closed. The leniency is that of the base class.
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            self.parser.feed_data(head)

    def _offers_in_vain(self) -> bool:
        # A CONNECT is one whatever its headers say, and would be read again for ever.
        is_offer = self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
        return is_offer and not self._should_upgrade()

    def _head_without_offer(self) -> bytes:
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(self.head_timeout_s, self._head_is_late)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_stall_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._is_answering():
            self._start_head_timer()  # nobody waits for the next request before this one is answered
        elif self._head_bytes:
            self._refuse(408, "request_timeout", f"the head did not arrive within {self.head_timeout_s:g} s")
        else:
            self.transport.close()

    def _cut(self) -> None:
        logger.warning("a client that read nothing for %g s is cut off", self.reader_stall_s)
        self.transport.abort()

    def _discard(self, data: bytes) -> None:
        self._discarded_bytes += len(data)
        if self._discarded_bytes > DISCARDED_BYTES_MAX:
            self.transport.abort()

    def _is_answering(self) -> bool:
        """Whether a request before the one that arrives now is not answered to its end."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            return False
        return cycle.response_started or not cycle.more_body or bool(self.pipeline)

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Answer a request that cannot be read, and close once the client has, or after a while."""
        if self._is_answering():
            # A second answer would land in the middle of the first.
            self.transport.abort()
            return
        body = msgspec.json.encode(
            {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}
        )
        head = b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(head % (status, _PHRASES[status], len(body)) + body)
        self._refused = True
        self._stop_head_timer()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._linger_timer = self.loop.call_later(LINGER_S, self.transport.abort)


_TOO_LARGE = f"the head has more than {HEADERS_MAX} headers or {HEAD_BYTES_MAX} bytes"

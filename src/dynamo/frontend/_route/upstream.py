"""HTTP to the servers behind a route, with aiohttp: requests as they came, and answers as they arrive.

Bodies are passed on as they are, compressed or not. Nothing is read ahead beyond aiohttp's buffer of a connection:
whoever reads slowly makes the server write slowly.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

import aiohttp
import msgspec
from multidict import CIMultiDict
from yarl import URL

from dynamo._core.errors import CannotConnect, Disconnected, DynamoError, ProtocolError
from dynamo._core.watched_socket import watched_socket

#: Less than servers keep idle connections: vLLM does for 5 s. One that closes while we send would look like a loss.
KEEP_ALIVE_S = 2.0
#: What aiohttp reads ahead of a connection, twice that at most, and how long a header may be.
READ_BYTES_MAX = 1 << 16
#: The longest list of models.
MODELS_BYTES_MAX = 4 << 20
#: aiohttp would add these.
_AUTOMATIC = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
#: They are of one connection, and not of the request or the answer that travels over it.
_OF_CONNECTION = {
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te",
    b"trailer", b"transfer-encoding", b"upgrade", b"expect", b"host", b"content-length",
}  # fmt: skip
#: The server that passes an answer on writes its own.
_OF_ANSWER = (_OF_CONNECTION - {b"content-length"}) | {b"date"}

Headers = Iterable[tuple[bytes, bytes]]


class Answer:
    """What a server answers, of which the head is there. Whoever holds one closes it."""

    def __init__(self, response: aiohttp.ClientResponse, url: str) -> None:
        self._response = response
        self._url = url
        self.status = response.status
        self.reason = response.reason or ""
        #: Without those of the connection, with names in lower case.
        self.headers = [
            (lowered, value) for name, value in response.raw_headers if (lowered := name.lower()) not in _OF_ANSWER
        ]

    @property
    def is_stream(self) -> bool:
        """Whether it is server-sent events."""
        return self._response.content_type == "text/event-stream"

    @property
    def ends_by_closing(self) -> bool:
        """Whether nothing but the end of the connection says where it ends."""
        return not self._response.headers.keys() & {"Content-Length", "Transfer-Encoding"}

    def header(self, name: str) -> str | None:
        return self._response.headers.get(name)

    async def read(self) -> bytes:
        """Return what has arrived, waiting for the first of it; nothing at the end. Raises `Disconnected`."""
        try:
            return await self._response.content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise Disconnected(f"{self._url} was lost while it answered: {_told(error)}") from error

    async def read_all(self, size_bytes_max: int) -> bytes:
        """Return the rest of it. Raises `ProtocolError` if that is more."""
        parts: list[bytes] = []
        size_bytes = 0
        while part := await self.read():
            size_bytes += len(part)
            if size_bytes > size_bytes_max:
                raise ProtocolError(f"{self._url} answered with more than {size_bytes_max} bytes")
            parts.append(part)
        return b"".join(parts)

    def close(self) -> None:
        """Read no more: a server that has not finished sees its connection close. A second call changes nothing."""
        self._response.close()


class Upstream:
    """A client of all servers."""

    def __init__(self, *, connect_timeout_s: float) -> None:
        self._connect_timeout_s = connect_timeout_s
        connector = aiohttp.TCPConnector(
            limit=0, keepalive_timeout=KEEP_ALIVE_S, socket_factory=watched_socket, ttl_dns_cache=10
        )
        # How long answers take is watched where they are passed on; here it is only who takes no connection.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout_s, connect=connect_timeout_s)
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=timeout, trust_env=False, auto_decompress=False,
            skip_auto_headers=_AUTOMATIC, cookie_jar=aiohttp.DummyCookieJar(), read_bufsize=READ_BYTES_MAX,
            max_field_size=READ_BYTES_MAX,
        )  # fmt: skip

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def send(self, url: str, method: str, target: str, headers: Headers, body: bytes) -> Answer:
        """Send a request to the server at `url`; return its answer when the head of that is there.

        Raises `CannotConnect` if the server has certainly not got it, and `Disconnected` if it may have.
        """
        given = CIMultiDict(
            (_text(name), _text(value)) for name, value in headers if name.lower() not in _OF_CONNECTION
        )
        try:
            response = await self._session.request(
                method, URL(url + target, encoded=True), headers=given, data=body or None, allow_redirects=False
            )
        except (aiohttp.ClientConnectorError, aiohttp.ServerTimeoutError) as error:
            raise CannotConnect(f"{url} cannot be reached: {self._why(error)}") from error
        except aiohttp.ClientResponseError as error:
            what = " ".join(error.message.split())  # aiohttp draws it in several lines
            raise ProtocolError(f"{url} answers what is no HTTP: {what}") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Disconnected(f"{url} was lost before it answered: {_told(error)}") from error
        return Answer(response, url)

    async def models(self, url: str) -> dict[str, Mapping[str, object]] | None:
        """Ask a server which models it has; None if it answers and does not tell.

        Raises like `send`, and `DynamoError` if it says that it cannot serve.
        """
        answer = await self.send(url, "GET", "/v1/models", [(b"accept", b"application/json")], b"")
        try:
            if answer.status >= 500:
                raise DynamoError(f"{url} answers {answer.status} {answer.reason}")
            data = await answer.read_all(MODELS_BYTES_MAX) if answer.status == 200 else b""
        finally:
            answer.close()
        try:
            return {str(one["id"]): one for one in msgspec.json.decode(data, type=_Models).data if "id" in one}
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None

    def _why(self, error: Exception) -> str:
        if isinstance(error, aiohttp.ServerTimeoutError):
            return f"it took no connection within {self._connect_timeout_s:g} s"
        return _told(error)


class _Models(msgspec.Struct):
    data: list[dict[str, object]] = []


def _told(error: BaseException) -> str:
    """What went wrong, without the name of the host, which is told already."""
    cause = getattr(error, "os_error", None) or error
    if isinstance(cause, OSError) and cause.errno is not None and cause.errno > 0:
        return os.strerror(cause.errno)  # asyncio's own words for it repeat the address
    return str(cause) or "it closed the connection"


def _text(value: bytes) -> str:
    # aiohttp writes UTF-8, which most headers are.
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")

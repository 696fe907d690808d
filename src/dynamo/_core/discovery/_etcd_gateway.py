"""etcd over its JSON gateway: one call, or one stream of replies, from whichever of its members answers.

Why the gateway, and not a client for etcd's gRPC: the one asyncio client that is alive (aetcd 1.0.0) talks to a
single member, has no argument for TLS, renews no lease by itself, and ends a watch for good when its connection
breaks. So the failing over, the renewing and the resuming would be ours in any case, and what would remain of it
are generated messages, for which a process would load grpcio and protobuf: 30 MB of wheels whose versions other
packages pin. The gateway is a part of every etcd since 3.4 and needs an HTTP client. What it costs: a watch takes a
connection of its own, keys and values travel as base64, and the certificate of a client is not taken for its user.

The members have 1.8 seconds together to begin to answer a call, once it is the call's turn, and 1.2 as long as none
of them was ever heard; each is given its part of what is left. An answer that has begun may take longer, while it goes
on. Every read that we make is a linearizable one, so a member that has lost its leader answers none, and a watch on it
is ended by etcd, because each asks for a member that has a leader.
"""

from __future__ import annotations

import asyncio
import random as random_module
import socket
import ssl
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import TypeVar

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult

from dynamo._core._lookup import Lookups
from dynamo._core._tls_failure import told
from dynamo._core.discovery._etcd_answers import MemberIsDown, TokenIsOver, decoded, refusal
from dynamo._core.errors import CannotConnect, DynamoError
from dynamo._core.limits import ETCD_CALLS_MAX, ETCD_REPLY_BYTES_MAX
from dynamo._core.watched_socket import watched_socket

#: How long the members have together, to begin to answer.
CALL_TIMEOUT_S = 1.8
#: As long as it was never heard: whoever starts a process with a wrong setting learns of it in less than two seconds.
FIRST_CALL_TIMEOUT_S = 1.2
#: How long an answer may stop, and how long it may take to its end.
PAUSE_TIMEOUT_S = 1.5
REPLY_TIMEOUT_S = 15.0

T = TypeVar("T")

Body = Mapping[str, object]

_FAULTS = (aiohttp.ClientError, TimeoutError, OSError, MemberIsDown)


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who we are to etcd."""

    user: str
    password: str = field(repr=False)


class _Token(msgspec.Struct):
    token: str = ""


class _Streamed(msgspec.Struct):
    result: msgspec.Raw = msgspec.Raw()


class Gateway:
    """Talks to the members of one etcd. Belongs to one event loop, and holds no state of etcd's."""

    def __init__(
        self,
        members: Sequence[str],
        random: random_module.Random,
        *,
        credentials: Credentials | None,
        tls: ssl.SSLContext | None,
        setting: str,
    ) -> None:
        self._members = list(members)
        self._setting = setting
        self._credentials = credentials
        self._tls = tls
        self._turns = asyncio.Semaphore(ETCD_CALLS_MAX)
        self._proving = asyncio.Lock()
        # The mutable state: which member is asked now, the streams that hang on it, and the proof of who we are.
        # Not everybody begins with the same member.
        self._current = random.randrange(len(self._members))
        self._streams: set[aiohttp.ClientResponse] = set()
        self._token = ""
        self._session: aiohttp.ClientSession | None = None
        self._is_closed = False
        #: How often a member was left. A call during which it changed may have been made twice.
        self.times_left = 0
        #: When etcd was last heard, by the loop's clock; None if it never was.
        self.answered_at: float | None = None

    @property
    def names(self) -> str:
        """The members, for a message."""
        return ", ".join(self._members)

    async def call(self, path: str, body: Body, reply: type[T]) -> T:
        """Return the reply of the first member that gives one.

        Raises `CannotConnect` if none does, `NotFound` for a lease that does not exist, `ConfigError` if etcd
        refuses us, and `DynamoError` for whatever else it refuses.
        """
        problem: Exception | None = None
        loop = asyncio.get_running_loop()
        async with self._turns:
            deadline = loop.time() + self._call_timeout_s()
            for num_left in range(len(self._members), 0, -1):
                member, now = self._current, loop.time()
                try:
                    data = await self._post(member, path, body, now + (deadline - now) / num_left)
                    self.answered_at = loop.time()
                    return decoded(data, reply)
                except _FAULTS as error:
                    problem = error
                    self._leave(member)
        # Not from the problem: its traceback is a page of another library's, and what it says is said here.
        raise CannotConnect(
            f"no member of the etcd that {self._setting} names answers ({self.names}): {_told(problem)}",
            setting=self._setting,
        )

    async def follow(self, path: str, body: Body, reply: type[T]) -> AsyncGenerator[T, None]:
        """Yield the replies of a stream, until it breaks: then `CannotConnect`."""
        loop, member = asyncio.get_running_loop(), self._current
        try:
            until = loop.time() + self._call_timeout_s()
            response = await self._open(member, path, body, until, is_stream=True)
            self._streams.add(response)
            try:
                async for line in _lines(response.content):
                    self.answered_at = loop.time()
                    streamed = msgspec.json.decode(line, type=_Streamed)
                    if not bytes(streamed.result):
                        raise refusal(response.status, line)
                    yield decoded(bytes(streamed.result), reply)
            finally:
                self._streams.discard(response)
                response.close()
        except (*_FAULTS, msgspec.MsgspecError) as error:
            if isinstance(error, TokenIsOver):
                self.forget_token()
            self._leave(member)
            raise CannotConnect(f"etcd at {self._members[member]} broke off: {_told(error)}") from error
        self._leave(member)
        raise CannotConnect(f"etcd at {self._members[member]} ended a stream")

    def _call_timeout_s(self) -> float:
        return FIRST_CALL_TIMEOUT_S if self.answered_at is None else CALL_TIMEOUT_S

    def forget_token(self) -> None:
        """Prove anew who we are with the next call."""
        self._token = ""

    async def close(self) -> None:
        """Close every connection. Streams end, and calls are refused."""
        self._is_closed = True
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _leave(self, member: int) -> None:
        """Ask the next member from now on, unless somebody did that already."""
        if member != self._current:
            return
        self._current = (member + 1) % len(self._members)
        self.times_left += 1
        for response in list(self._streams):
            response.close()

    async def _post(self, member: int, path: str, body: Body, until: float) -> bytes:
        for is_last in (False, True):
            response = await self._open(member, path, body, until)
            async with response, asyncio.timeout(REPLY_TIMEOUT_S):
                data = await _read(response)
            if response.status == 200:
                return data
            error = refusal(response.status, data)
            if is_last or not isinstance(error, TokenIsOver):
                raise error
            self.forget_token()
        raise AssertionError("unreachable")

    async def _open(
        self, member: int, path: str, body: Body, until: float, *, is_stream: bool = False
    ) -> aiohttp.ClientResponse:
        """Return when the head of the answer is there; that of a stream comes with its first reply, at once."""
        headers = {"Grpc-Metadata-hasleader": "true"} if is_stream else {}
        timeout = aiohttp.ClientTimeout(total=None, sock_read=None if is_stream else PAUSE_TIMEOUT_S)
        async with asyncio.timeout_at(until):
            if self._credentials is not None:
                headers["Authorization"] = await self._proof(member, self._credentials)
            return await self._send(member, path, body, headers, timeout)

    async def _send(
        self, member: int, path: str, body: Body, headers: dict[str, str], timeout: aiohttp.ClientTimeout
    ) -> aiohttp.ClientResponse:
        url = f"{self._members[member]}/v3/{path}"
        data = BytesIO(msgspec.json.encode(body))
        return await self._http().post(url, data=data, headers=headers, timeout=timeout, allow_redirects=False)

    async def _proof(self, member: int, credentials: Credentials) -> str:
        """Return a token; whoever comes while one is fetched waits for it."""
        async with self._proving:
            if not self._token:
                body = {"name": credentials.user, "password": credentials.password}
                timeout = aiohttp.ClientTimeout(total=CALL_TIMEOUT_S)
                async with await self._send(member, "auth/authenticate", body, {}, timeout) as response:
                    data = await _read(response)
                if response.status != 200:
                    raise refusal(response.status, data)
                self._token = decoded(data, _Token).token
            return self._token

    def _http(self) -> aiohttp.ClientSession:
        if self._is_closed:
            raise DynamoError("this discovery is closed; open a new one")
        if self._session is None:
            # Not limited here: calls take turns, and watches are counted where they begin.
            connector = aiohttp.TCPConnector(
                limit=0, ssl=self._tls or True, socket_factory=watched_socket, resolver=_Resolver()
            )
            # Never through a proxy of the environment's: etcd is a neighbour.
            self._session = aiohttp.ClientSession(connector=connector, trust_env=False, read_bufsize=1 << 20)
        return self._session


class _Resolver(AbstractResolver):
    """Lets aiohttp look hosts up as we do."""

    def __init__(self) -> None:
        self._lookups = Lookups()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return [
            ResolveResult(hostname=host, host=found.host, port=port, family=found.family, proto=0, flags=flags)
            for found in await self._lookups.find(host, family)
        ]

    async def close(self) -> None:
        """Nothing is held."""


async def _read(response: aiohttp.ClientResponse) -> bytes:
    parts: list[bytes] = []
    size_bytes = 0
    async for part in response.content.iter_any():
        parts.append(part)
        size_bytes += len(part)
        if size_bytes > ETCD_REPLY_BYTES_MAX:
            raise DynamoError(f"etcd answered with more than {ETCD_REPLY_BYTES_MAX} bytes")
    return b"".join(parts)


async def _lines(content: aiohttp.StreamReader) -> AsyncGenerator[bytes, None]:
    """Yield the lines of a stream: each is a reply, and may be longer than what the reader buffers."""
    parts: list[bytes] = []
    size_bytes = 0
    async for data in content.iter_any():
        *ends, rest = data.split(b"\n")
        for end in ends:
            parts.append(end)
            yield b"".join(parts)
            parts.clear()
            size_bytes = 0
        parts.append(rest)
        size_bytes += len(rest)
        if size_bytes > ETCD_REPLY_BYTES_MAX:
            raise MemberIsDown(f"it sent a line of more than {ETCD_REPLY_BYTES_MAX} bytes")


def _told(error: Exception | None) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        error = error.certificate_error
    elif isinstance(error, aiohttp.ClientConnectorError):
        error = error.os_error  # aiohttp says the member's name again, and not always the reason
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {told(error)}"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "it closed the connection; it may want TLS, which is etcds://"
    return str(error) or type(error).__name__

"""Planes with credentials, handlers for them, and an authority that signs certificates."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path

import trustme

from dynamo._core import wire
from dynamo._core.context import Context
from dynamo._core.credentials import Credentials, Secret, TlsFiles
from dynamo._core.request_plane.tcp import TcpPlane

DEADLINE_S = 60.0

TOKEN = Secret(b"a token of this cluster, long enough")
OTHER_TOKEN = Secret(b"a token of another one, long enough")


def with_token(token: Secret | None, tls: TlsFiles | None = None) -> Credentials:
    return Credentials(token, tls)


async def echo(request: bytes, context: Context) -> AsyncIterator[bytes]:
    yield request


async def ask(plane: TcpPlane, address: str, request: bytes = b"hi") -> list[bytes]:
    """Call, and return the answer, or raise, within a deadline."""
    async with asyncio.timeout(DEADLINE_S):
        return [item async for item in await plane.call(address, request, Context())]


def where(address: str) -> tuple[str, int]:
    """The host and port in an address."""
    host, _, port = address.removeprefix("tcp://").partition("/")[0].rpartition(":")
    return host, int(port)


async def connect(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(*where(address))


async def read_messages(reader: asyncio.StreamReader) -> list[wire.Message]:
    """Everything that a peer says until it closes."""
    decoder, messages = wire.Decoder(), []
    async with asyncio.timeout(DEADLINE_S):
        while data := await reader.read(65536):
            messages += decoder.feed(data)
    return messages


async def next_messages(reader: asyncio.StreamReader, decoder: wire.Decoder, count: int) -> list[wire.Message]:
    """The next `count` messages of a peer."""
    messages: list[wire.Message] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(messages) < count:
            data = await reader.read(65536)
            assert data, f"the connection ended; it had said {messages}"
            messages += decoder.feed(data)
    return messages


async def until_closed(reader: asyncio.StreamReader) -> None:
    """Wait until the peer has closed the connection, in whatever way."""
    async with asyncio.timeout(DEADLINE_S):
        try:
            while await reader.read(65536):
                pass
        except ConnectionError:
            pass


class Authority:
    """Signs certificates, and writes them to files that are private to their owner."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._ca = trustme.CA()
        self.path = str(directory / "ca.pem")
        self._ca.cert_pem.write_to_path(self.path)

    def issue(
        self,
        name: str,
        *,
        ca: bool = True,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> TlsFiles:
        """Return the files of a process; the certificate has the name of a host that nobody calls."""
        signed = self._ca.issue_cert(f"{name}.cluster.invalid", not_before=not_before, not_after=not_after)
        cert, key = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        for number, blob in enumerate(signed.cert_chain_pems):
            blob.write_to_path(str(cert), append=number > 0)
        signed.private_key_pem.write_to_path(str(key))
        key.chmod(0o600)
        return TlsFiles(str(cert), str(key), self.path if ca else "")

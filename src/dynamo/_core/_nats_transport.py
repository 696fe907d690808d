"""The connection below NATS's client: its own, but for how it is made."""

from __future__ import annotations

import asyncio
from urllib.parse import ParseResult

from nats.aio.transport import TcpTransport

from dynamo._core._lookup import Lookups


class LookingUp(TcpTransport):
    """Connects to the first address of a host that answers."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._lookups = Lookups()

    def __bool__(self) -> bool:
        """True, or NATS's client would put another one in its place."""
        return True

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:
        """Connect, in so many seconds. Raises `OSError`."""
        problem: OSError | None = None
        # Not wait_for, as NATS's client has it: in Python 3.11 it loses a cancellation that comes with a refusal, and
        # then the client tries to connect for ever, also after it was closed.
        async with asyncio.timeout(connect_timeout):
            for address in await self._lookups.find(uri.hostname or ""):
                try:
                    reader, writer = await asyncio.open_connection(address.host, uri.port, limit=buffer_size)
                except OSError as error:
                    problem = error
                    continue
                self._bare_io_reader = self._io_reader = reader
                self._bare_io_writer = self._io_writer = writer
                return
        raise problem or OSError(f"{uri.hostname!r} has no address")

"""Lets callers in by TLS, and tells of those who do not get in: us, and them.

asyncio's own servers drop a connection whose handshake fails without a word to anybody. So connections are accepted
one by one here, and what OpenSSL had to say last, the alert that says why, is sent before the socket is closed.
Without it, a caller whose certificate is not accepted could not tell that from a worker that died.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar

from dynamo._core._tls_failure import told
from dynamo._core.errors import CannotConnect
from dynamo._core.limits import CONNECTIONS_MAX
from dynamo._core.request_plane._connection import HELLO_TIMEOUT_S, Connection

logger = logging.getLogger(__name__)

#: So long is nobody accepted after that has failed: there are no files or no memory left.
ACCEPT_RETRY_S = 1.0

#: The socket whose handshake begins.
_beginning: ContextVar[socket.socket] = ContextVar("_beginning")


class TellingContext(ssl.SSLContext):
    """The context of a server whose handshakes are all begun by a `TlsDoor`."""

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        made = super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)
        assert isinstance(made, _Telling)
        made.outgoing, made.socket = outgoing, _beginning.get()
        return made


class _Telling(ssl.SSLObject):
    """One handshake, which sends its alert by itself: nobody else would."""

    outgoing: ssl.MemoryBIO
    socket: socket.socket

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError:
            with suppress(OSError):  # the caller may have left
                self.socket.send(self.outgoing.read())
            raise


TellingContext.sslobject_class = _Telling


class TlsDoor:
    """Accepts connections at a socket that listens, until it is closed.

    `admit` returns the serving end for a caller at that address.
    """

    def __init__(
        self,
        listening: socket.socket,
        context: TellingContext,
        admit: Callable[[object], Connection],
    ) -> None:
        self._listening = listening
        self._context = context
        self._admit = admit
        self._loop = asyncio.get_running_loop()
        # Those who shake hands.
        self._entering: set[asyncio.Task[None]] = set()
        self._accepting = asyncio.create_task(self._accept(), name="accept callers by TLS")

    async def close(self) -> None:
        """Let nobody in any more, also not those who shake hands."""
        tasks = [self._accepting, *self._entering]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        self._listening.close()

    async def _accept(self) -> None:
        while True:
            try:
                accepted, address = await self._loop.sock_accept(self._listening)
            except ConnectionAbortedError:
                continue
            except OSError as error:
                logger.error("no caller can be accepted; trying again in %g s: %s", ACCEPT_RETRY_S, error)
                await asyncio.sleep(ACCEPT_RETRY_S)
                continue
            if len(self._entering) >= CONNECTIONS_MAX:
                accepted.close()
                continue
            entering = asyncio.create_task(self._enter(accepted, address))
            self._entering.add(entering)
            entering.add_done_callback(self._entering.discard)

    async def _enter(self, accepted: socket.socket, address: object) -> None:
        _beginning.set(accepted)
        connection = self._admit(address)
        try:
            await self._loop.connect_accepted_socket(
                lambda: connection, accepted, ssl=self._context, ssl_handshake_timeout=HELLO_TIMEOUT_S
            )
        except ssl.SSLError as error:
            connection.refuse_tls(f"the handshake of TLS failed: {told(error)}")
        except OSError as error:
            connection.refuse_tls(f"the peer did not finish the handshake of TLS: {error or 'it hung up'}")
        except BaseException:
            connection.abort(CannotConnect("this process takes no more requests"))
            raise

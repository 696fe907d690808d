"""uvicorn as a part of a process that owns its signals and its end itself."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import uvicorn

from dynamo._core.errors import ConfigError
from dynamo.runtime._http_protocol import HttpProtocol
from dynamo.runtime._listening import BACKLOG, url_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp

KEEP_ALIVE_S = 5.0
#: How long connections and the application's own shutdown may take when the requests have ended.
CLOSE_S = 5.0
#: How long a connection that was accepted just before the end may take to send its request: so long at least, for
#: those that are on their way, and so long at most, for those that have come and not sent theirs.
HEAR_OUT_S, HEAR_OUT_S_MAX = 0.1, 1.0

logger = logging.getLogger(__name__)

_UVICORN = logging.getLogger("uvicorn.error")
#: What uvicorn says of responses that were broken off, which was said before, with the reason.
_SAID_BEFORE = ("ASGI callable returned without completing response.", "Cancel %s running task(s)")


class HttpServer:
    """Serves an application on a socket that is bound already. `on_end` is called when it serves no more.

    An application may use the lifespan, websockets and the headers of a proxy on this machine; those of our
    own (`is_ours`) know none of them.
    """

    def __init__(
        self,
        app: ASGIApp,
        bound: socket.socket,
        on_end: Callable[[], None] = lambda: None,
        *,
        is_ours: bool = False,
        keep_alive_s: float = KEEP_ALIVE_S,
        protocol: type[HttpProtocol] = HttpProtocol,
    ) -> None:
        config = uvicorn.Config(
            app,
            http=protocol,
            ws="none" if is_ours else "auto",
            lifespan="off" if is_ours else "auto",
            proxy_headers=not is_ours,
            log_config=None,
            # What a client gets wrong is answered, not logged.
            access_log=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=max(1, round(keep_alive_s)),
        )
        self._server = _Server(config)
        #: Where it listens.
        self.url = url_of(*bound.getsockname()[:2])
        self._socket = bound
        self._on_end = on_end
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Return when the server accepts. Raises `ConfigError` if the application's own startup failed."""
        self._serving = asyncio.create_task(self._run())
        accepting = asyncio.create_task(self._server.accepting.wait())
        try:
            await asyncio.wait([self._serving, accepting], return_when=asyncio.FIRST_COMPLETED)
        finally:
            accepting.cancel()
        if self._serving.done():
            ended, self._serving = self._serving, None
            ended.result()

    async def stop(self, drain_s: float) -> None:
        """Accept no more, and let the requests that run end within `drain_s`. A later call waits, too."""
        if self._serving is None:
            return
        self._server.config.timeout_graceful_shutdown = max(1, round(drain_s))
        self._server.should_exit = True
        # An application that is still starting has nothing to let end, and its end may take no longer than ours.
        patience_s = drain_s + CLOSE_S if self._server.accepting.is_set() else 0.0
        await asyncio.wait([self._serving], timeout=patience_s)
        if self._serving.done():
            self._serving.result()
            return
        logger.warning("the application at %s does not end; going on without it", self.url)
        self._serving.cancel()
        await asyncio.gather(self._serving, return_exceptions=True)

    async def _run(self) -> None:
        try:
            await self._server.serve(sockets=[self._socket])
        except SystemExit:
            # uvicorn ends the process when a lifespan fails; here it is one part of a process.
            raise ConfigError("the startup of the FastAPI application failed; its log says why") from None
        except OSError as error:
            raise ConfigError(f"cannot listen on {self.url}: {error.strerror or error}") from error
        finally:
            self._on_end()


class _Server(uvicorn.Server):
    """uvicorn, without its signal handlers: the process has its own."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.accepting = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.accepting.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # Accept no more, but hear out who was accepted just now: their requests are on the way, and uvicorn
        # would close their connections.
        for server in self.servers:
            server.close()
        # Who is heard out sends the next request elsewhere.
        self.server_state.default_headers.append((b"connection", b"close"))
        await self._hear_out()
        running, drain_s = set(self.server_state.tasks), self.config.timeout_graceful_shutdown
        if running:
            logger.info("requests that run: %d; waiting for them, for at most %s s", len(running), drain_s)
        await super().shutdown(sockets)
        if cut := sum(task.cancelling() > 0 for task in running):
            logger.warning("requests that were not done after %s s: %d; they are broken off", drain_s, cut)

    async def _hear_out(self) -> None:
        clock = asyncio.get_running_loop().time
        until = clock() + HEAR_OUT_S_MAX
        await asyncio.sleep(HEAR_OUT_S)
        connections = self.server_state.connections
        while clock() < until and any(isinstance(one, HttpProtocol) and one.cycle is None for one in connections):  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _is_news(record: logging.LogRecord) -> bool:
    """Whether uvicorn tells of something that nobody has told of before."""
    is_cancelled = record.exc_info is not None and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not is_cancelled and not str(record.msg).startswith(_SAID_BEFORE)


_UVICORN.addFilter(_is_news)

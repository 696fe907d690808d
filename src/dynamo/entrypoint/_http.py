"""The OpenAI frontend before whoever answers, from its first sign of life to its orderly end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from dynamo._core.errors import NoInstances
from dynamo.entrypoint._answering import Answering, Ended, until_ended
from dynamo.frontend._config import FrontendConfig
from dynamo.frontend._server import ON_A_COMMAND_LINE, Spelling
from dynamo.frontend._serving import FrontendServer
from dynamo.llm._kv_router.config import RouterConfig
from dynamo.runtime import DistributedRuntime

#: Tells whoever started it, in a line.
Say = Callable[[str], None]


class HttpInput:
    """Clients of the OpenAI API ask."""

    def __init__(
        self,
        answering: Answering,
        config: FrontendConfig,
        say: Say,
        *,
        router: RouterConfig | None = None,
        spelling: Spelling = ON_A_COMMAND_LINE,
    ) -> None:
        self._answering = answering
        self._config = config
        self._server = FrontendServer(config, router, spelling=spelling)
        self._say = say
        self._url = ""

    @asynccontextmanager
    async def listening(self, runtime: DistributedRuntime) -> AsyncIterator[Ended]:
        """Within the block it listens, and whoever answers has been started."""
        self._url = await self._server.start(runtime)
        try:
            self._say(f"listening on {self._url}")
            async with self._answering.serving(runtime) as ended:
                try:
                    yield ended
                finally:
                    # The engine ends after the requests that it has.
                    await self._server.stop()
        finally:
            await self._server.stop()

    async def serve(self, ended: Ended, shutdown: Callable[[], Awaitable[None]]) -> None:
        """Say when a model can be asked; return when `shutdown` does. If who answers ends before, raise why."""
        await until_ended(ended, self._until(shutdown))
        self._say(f"shutting down; running requests get up to {self._config.drain_s:g} s")

    async def _until(self, shutdown: Callable[[], Awaitable[None]]) -> None:
        announcing = asyncio.ensure_future(self._announce())
        asked = asyncio.ensure_future(shutdown())
        try:
            await asyncio.wait([announcing, asked], return_when=asyncio.FIRST_COMPLETED)
            if announcing.done():
                announcing.result()
            await asked
        finally:
            announcing.cancel()
            asked.cancel()
            await asyncio.gather(announcing, asked, return_exceptions=True)

    async def _announce(self) -> None:
        patience_s = self._answering.ready_timeout_s if self._answering.is_here else None
        try:
            async with asyncio.timeout(patience_s):
                names = await self._server.wait_ready()
        except TimeoutError:
            raise NoInstances(f"the model was not ready within {patience_s:g} s; the log above says why") from None
        self._say(f"ready: serving {', '.join(names)} at {self._url}")

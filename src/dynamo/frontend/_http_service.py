"""An OpenAI server in a program of your own, before engines that are Python generators.

It is the frontend as it is, with a system of its own that nobody else can join (`_python_models.py`).
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack

from dynamo._core.context import CancellationToken
from dynamo._core.errors import InvalidArgument
from dynamo._core.stability import beta
from dynamo.frontend._config import FrontendConfig
from dynamo.frontend._python_models import PythonModels
from dynamo.frontend._server import Spelling
from dynamo.frontend._serving import FrontendServer
from dynamo.llm._entrypoint_engines import PythonAsyncEngine
from dynamo.llm._registration import Kind
from dynamo.runtime import DistributedRuntime
from dynamo.runtime._arguments import check_seconds, check_type

logger = logging.getLogger(__name__)

PORT = 8080
PORT_MAX = 65535

_SPELLING = Spelling("host=", "port", "give insecure=True")


@beta(since="0.1")
class HttpService:
    """Serves the OpenAI API over HTTP, before engines that are added to it.

    ```python
    service = HttpService(port=8080)
    service.add_chat_completions_model("parrot", HttpAsyncEngine(generate))
    await service.run(runtime)
    ```

    `port` 0 picks a free one. `host` is the address to listen on: one that other machines reach needs
    `insecure=True`, since nobody is asked for credentials. A request must be answered completely within
    `request_timeout_s` seconds, and at the end requests that run get `drain_s` seconds to finish. Requests are
    checked, limited, streamed and cancelled, and errors told, as by `python -m dynamo.frontend`, which has the same
    routes.

    Raises TypeError for a value of the wrong type, and `InvalidArgument` or `ConfigError` for one out of range.
    """

    def __init__(
        self,
        port: int = PORT,
        *,
        host: str = FrontendConfig.http_host,
        insecure: bool = False,
        request_timeout_s: float = FrontendConfig.request_timeout_s,
        drain_s: float = FrontendConfig.drain_s,
    ) -> None:
        check_type("port", port, int, f"an integer from 0 to {PORT_MAX}")
        if not 0 <= port <= PORT_MAX:
            raise InvalidArgument(f"port={port}: give an integer from 0 to {PORT_MAX}", parameter="port")
        check_type("host", host, str, "an IP address, or a host's name")
        check_type("insecure", insecure, bool, "True or False")
        check_seconds("request_timeout_s", request_timeout_s, above_zero=True)
        check_seconds("drain_s", drain_s)
        self._config = FrontendConfig(
            http_port=port,
            http_host=host,
            insecure=insecure,
            request_timeout_s=request_timeout_s,
            drain_s=drain_s,
            # There is nowhere to go.
            migration_limit=0,
        )
        self._models = PythonModels()
        self._is_running = False
        self._url = ""

    @property
    def url(self) -> str:
        """Where it listens, such as http://127.0.0.1:8080; empty while it does not."""
        return self._url

    def add_chat_completions_model(self, model: str, engine: PythonAsyncEngine) -> None:
        """Answer requests to /v1/chat/completions for `model` with `engine`; if it runs already, a moment later.

        Raises `InvalidArgument` if there is one, or if `model` is no name of a model, and TypeError for arguments of
        other types.
        """
        self._models.add(Kind.Chat, model, engine)

    def add_completions_model(self, model: str, engine: PythonAsyncEngine) -> None:
        """Do the same for /v1/completions; `model` may be there for chat, too."""
        self._models.add(Kind.Completion, model, engine)

    def remove_chat_completions_model(self, model: str) -> None:
        """Answer no more chat requests for `model`; those that run may finish. Raises `NotFound` if there is none."""
        self._models.remove(Kind.Chat, model)

    def remove_completions_model(self, model: str) -> None:
        """Do the same for completions."""
        self._models.remove(Kind.Completion, model)

    def list_chat_completions_models(self) -> list[str]:
        """The names of the models for chat, in order."""
        return self._models.names(Kind.Chat)

    def list_completions_models(self) -> list[str]:
        """The names of the models for completions, in order."""
        return self._models.names(Kind.Completion)

    async def wait_ready(self) -> str:
        """Wait until it runs and every model that was added can be asked, and none that was removed; return the URL."""
        await self._models.settled()
        return self._url

    async def run(self, runtime: DistributedRuntime | CancellationToken) -> None:
        """Serve until `runtime` shuts down, or the token is cancelled; then let the requests that run finish.

        Raises `ConfigError` if the address cannot be had, `InvalidArgument` if it runs already or an engine needs
        another event loop, and TypeError for what is neither a runtime nor a token. When it is cancelled, requests
        that run may finish, too.
        """
        kinds = (DistributedRuntime, CancellationToken)
        check_type("runtime", runtime, kinds, "a DistributedRuntime, or the token whose cancellation ends it")
        if self._is_running:
            raise InvalidArgument(f"this HttpService runs already, at {self._url}: make another one")
        self._models.check_loops()
        if isinstance(runtime, DistributedRuntime):
            runtime.note_serving()
            token = runtime.primary_token()
        else:
            token = runtime
        self._is_running = True
        try:
            async with DistributedRuntime(
                discovery="memory:", request_plane="inproc:", event_plane="inproc:", system_server=False
            ) as own:
                await self._serve(own, token)
        finally:
            self._is_running = False
            self._url = ""

    async def _serve(self, own: DistributedRuntime, token: CancellationToken) -> None:
        server = FrontendServer(self._config, spelling=_SPELLING)
        async with AsyncExitStack() as ends:
            self._url = await server.start(own)
            ends.push_async_callback(server.stop)
            logger.info("listening on %s", self._url)
            keeping = asyncio.create_task(self._models.keep(own, server.instances))
            asked = asyncio.create_task(token.cancelled())
            try:
                await asyncio.wait([keeping, asked], return_when=asyncio.FIRST_COMPLETED)
                if keeping.done():
                    keeping.result()
                # The engines end after the requests that they have.
                await server.stop()
            finally:
                for task in (keeping, asked):
                    task.cancel()
                await asyncio.gather(keeping, asked, return_exceptions=True)

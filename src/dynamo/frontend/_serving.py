"""A running frontend: the models, the application and the server, started and stopped in order."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

from dynamo.frontend._app import create_app
from dynamo.frontend._config import FrontendConfig
from dynamo.frontend._cors import read_origins
from dynamo.frontend._metrics import MigrationCollector
from dynamo.frontend._router_metrics import router_metrics
from dynamo.frontend._server import ON_A_COMMAND_LINE, DrainingServer, Spelling, open_listener
from dynamo.llm._kv_router.config import RouterConfig
from dynamo.llm._models import ModelManager
from dynamo.llm._request_trace import RequestTrace
from dynamo.runtime import DistributedRuntime

MIB = 1 << 20


class FrontendServer:
    """Serves the OpenAI API for the models of one runtime."""

    def __init__(
        self,
        config: FrontendConfig,
        router: RouterConfig | None = None,
        *,
        spelling: Spelling = ON_A_COMMAND_LINE,
    ) -> None:
        """`router` is how requests find their workers, where the settings are not to say it."""
        self._config = config
        self._spelling = spelling
        self._router = config.router_config() if router is None else router
        self._parts = AsyncExitStack()
        self._server: DrainingServer | None = None
        self._models: ModelManager | None = None

    async def start(self, runtime: DistributedRuntime) -> str:
        """Listen; return the URL. Raises `ConfigError` if the address cannot be had."""
        config = self._config
        listener = open_listener(config.http_host, config.http_port, insecure=config.insecure, spelling=self._spelling)
        try:
            trace = None
            if config.request_trace is not None:
                trace = await self._parts.enter_async_context(RequestTrace(Path(config.request_trace)))
            models = await self._parts.enter_async_context(
                ModelManager(
                    runtime,
                    namespace=config.namespace,
                    migration_limit=config.migration_limit,
                    migration_max_seq_len=config.migration_max_seq_len,
                    router=self._router,
                    request_trace=trace,
                )
            )
            for collector in (MigrationCollector(models.migrations), router_metrics(models.routers)):
                runtime.exposition.add(collector)
                self._parts.callback(runtime.exposition.remove, collector)
            app = create_app(
                models,
                request_timeout_s=config.request_timeout_s,
                body_size_bytes_max=round(config.http_body_limit_mb * MIB),
                discovery=runtime.discovery.status,
                expose=runtime.exposition.prepare(),
            )
            server = DrainingServer(
                app,
                listener,
                keep_alive_s=config.http_keep_alive_s,
                cors_origins=read_origins(config.http_cors_origins),
            )
            await server.start()
        except BaseException:
            listener.close()
            await self._parts.aclose()
            raise
        self._models, self._server = models, server
        return server.url

    async def wait_ready(self) -> list[str]:
        """Wait until a model can be asked; return the names of all that can."""
        assert self._models is not None, "the frontend was not started"
        await self._models.wait_ready()
        return self._models.names()

    def is_ready(self) -> bool:
        """Whether a model can be asked. Raises why, if its workers are there and it cannot be."""
        assert self._models is not None, "the frontend was not started"
        if (fault := self._models.fault()) is not None:
            raise fault
        return bool(self._models.names())

    def instances(self) -> dict[str, list[str]]:
        """The live instances of each model that can be asked."""
        assert self._models is not None, "the frontend was not started"
        return self._models.instances()

    async def stop(self) -> None:
        """Refuse new requests, let those that run finish, then close. A second call changes nothing."""
        server, self._server = self._server, None
        try:
            if server is not None:
                await server.stop(self._config.drain_s)
        finally:
            await self._parts.aclose()

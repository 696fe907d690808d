"""A running route: its parts, started and stopped in order."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from dynamo.frontend._active import ActiveRequests
from dynamo.frontend._cors import read_origins
from dynamo.frontend._route.app import RouteApp
from dynamo.frontend._route.attempts import Attempts
from dynamo.frontend._route.backends import Backends
from dynamo.frontend._route.checks import Checks
from dynamo.frontend._route.config import RouteConfig
from dynamo.frontend._route.metrics import RouteCollector
from dynamo.frontend._route.prompts import NoPrompts, Prompts, TextPrompts, TokenPrompts
from dynamo.frontend._route.router import BackendRouter
from dynamo.frontend._route.upstream import Upstream
from dynamo.frontend._router_metrics import router_metrics
from dynamo.frontend._server import DrainingServer, open_listener
from dynamo.llm._kv_router.config import RouterMode
from dynamo.runtime import DistributedRuntime

MIB = 1 << 20


class RouteServer:
    """Serves what the servers behind it serve."""

    def __init__(self, config: RouteConfig) -> None:
        self._config = config
        self._parts = AsyncExitStack()
        self._server: DrainingServer | None = None
        self._checks: Checks | None = None
        self.backends = Backends(config.addresses(), kv_blocks=config.backend_kv_blocks)

    async def start(self, runtime: DistributedRuntime) -> str:
        """Listen; return the URL. Raises `ConfigError` if the address cannot be had, or the tokenizer not be read."""
        config = self._config
        listener = open_listener(config.http_host, config.http_port, insecure=config.insecure)
        try:
            app = await self._open(runtime)
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
        self._server = server
        return server.url

    async def wait_ready(self) -> list[str]:
        """Wait until a server answers; return what they serve together."""
        assert self._checks is not None, "the route was not started"
        await self._checks.wait_ready()
        return list(self.backends.models())

    async def stop(self) -> None:
        """Refuse new requests, let those that run finish, then close. A second call changes nothing."""
        server, self._server = self._server, None
        try:
            if server is not None:
                await server.stop(self._config.drain_s)
        finally:
            await self._parts.aclose()

    async def _open(self, runtime: DistributedRuntime) -> RouteApp:
        config, parts, backends = self._config, self._parts, self.backends
        upstream = Upstream(connect_timeout_s=config.connect_timeout_s)
        parts.push_async_callback(upstream.close)
        prompts = await self._prompts()
        parts.callback(prompts.close)
        router = BackendRouter(backends, config, runtime)
        parts.push_async_callback(router.close)
        await router.start()
        self._checks = Checks(backends, upstream, interval_s=config.check_interval_s, timeout_s=config.check_timeout_s)
        parts.push_async_callback(self._checks.close)
        self._checks.start()
        attempts = Attempts(backends, upstream, asyncio.get_running_loop().time)
        for collector in (
            RouteCollector(backends, router, prompts, attempts),
            router_metrics(router.routers),
        ):
            runtime.exposition.add(collector)
            parts.callback(runtime.exposition.remove, collector)
        return RouteApp(
            backends,
            router,
            prompts,
            attempts,
            ActiveRequests(timeout_s=config.request_timeout_s),
            body_size_bytes_max=round(config.http_body_limit_mb * MIB),
            expose=runtime.exposition.prepare(),
        )

    async def _prompts(self) -> Prompts:
        if self._config.router_mode != RouterMode.KV.value:
            return NoPrompts()
        if self._config.model_path is None:
            return TextPrompts()
        return await TokenPrompts.load(self._config.model_path, self.backends.is_adapter)

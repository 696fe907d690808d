"""The frontend as a service of a graph."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from dynamo._core.stability import stable
from dynamo.frontend._config import FrontendConfig
from dynamo.frontend._server import IN_PYTHON
from dynamo.frontend._serving import FrontendServer
from dynamo.llm._router_settings import router_fields
from dynamo.sdk import async_on_shutdown, async_on_start, dynamo_context, readiness, service_of

logger = logging.getLogger(__name__)


@stable(since="0.1")
class Frontend:
    """Serves the OpenAI API for every model that the graph's workers register.

    Derive from it, and decorate the derived class with `@service`; what its constructor takes can be
    set in the graph's configuration. It listens before the service counts as started, and at its end
    lets the requests that run finish.

    It listens on `http_host`, an address of this machine unless `insecure` is true, and `http_port`, where 0 picks a
    free one. With a `namespace` it serves the models of that one only. A request must be answered within
    `request_timeout_s` seconds, and has a body of at most `http_body_limit_mb` MiB; at the end requests get `drain_s`
    seconds, and an idle connection is closed after `http_keep_alive_s`. A request moves to another worker when its
    own is lost `migration_limit` times (None: as often as the model card says), as long as it has no more than
    `migration_max_seq_len` tokens. When requests came, and which blocks their prompts share, is written to the file
    `request_trace`. `router` is how they find their workers: a mode such as `kv`, or a mapping of `mode` and the
    other router options of `python -m dynamo.frontend`, without `router_` before their names. Web pages may use it
    from a browser if `http_cors_origins` names their origins, with commas between them, or is `*` (None: no page may;
    this one is beta).

    Raises `ConfigError` for a value that is out of range, or a router option that there is not.
    """

    def __init__(
        self,
        *,
        http_host: str = FrontendConfig.http_host,
        http_port: int = FrontendConfig.http_port,
        insecure: bool = FrontendConfig.insecure,
        namespace: str | None = FrontendConfig.namespace,
        request_timeout_s: float = FrontendConfig.request_timeout_s,
        migration_limit: int | None = FrontendConfig.migration_limit,
        migration_max_seq_len: int | None = FrontendConfig.migration_max_seq_len,
        request_trace: str | None = FrontendConfig.request_trace,
        drain_s: float = FrontendConfig.drain_s,
        http_keep_alive_s: float = FrontendConfig.http_keep_alive_s,
        http_body_limit_mb: float = FrontendConfig.http_body_limit_mb,
        http_cors_origins: str | None = FrontendConfig.http_cors_origins,
        router: str | Mapping[str, object] = FrontendConfig.router_mode,
    ) -> None:
        self._server = FrontendServer(
            FrontendConfig(
                http_host=http_host,
                http_port=http_port,
                insecure=insecure,
                namespace=namespace,
                request_timeout_s=request_timeout_s,
                migration_limit=migration_limit,
                migration_max_seq_len=migration_max_seq_len,
                request_trace=request_trace,
                drain_s=drain_s,
                http_keep_alive_s=http_keep_alive_s,
                http_body_limit_mb=http_body_limit_mb,
                http_cors_origins=http_cors_origins,
                **router_fields(router),  # type: ignore[arg-type]  # whatever it is, it is checked there
            ),
            spelling=IN_PYTHON,
        )
        #: Where the frontend listens; empty until it does.
        self.url: str = ""

    @async_on_start
    async def listen(self) -> None:
        """Start to serve; return when requests are taken. Raises `ConfigError` if the address cannot be had."""
        self.url = await self._server.start(dynamo_context["runtime"])
        logger.info("listening on %s", self.url)

    @readiness
    def has_model(self) -> bool:
        """A frontend in front of workers is ready when one of their models can be asked."""
        return not service_of(type(self)).edges() or self._server.is_ready()

    @async_on_shutdown
    async def drain(self) -> None:
        """Let the requests that run finish, then close."""
        await self._server.stop()

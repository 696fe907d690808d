"""The frontend's settings."""

from __future__ import annotations

from dataclasses import dataclass

from dynamo._core.stability import Tier
from dynamo.frontend._cors import CORS_ORIGINS, read_origins
from dynamo.llm._router_settings import RouterSettings
from dynamo.runtime._settings import DISCOVERY, EVENT_PLANE, REQUEST_PLANE, Settings, option


@dataclass(frozen=True, kw_only=True)
class _ServerSettings(Settings):
    """What the frontend listens on, and its limits."""

    http_host: str = option("127.0.0.1", "address to listen on")
    http_port: int = option(8000, "port to listen on; 0 picks a free one", least=0, most=65535)
    insecure: bool = option(False, "allow an address that other machines reach, although nobody is authenticated")
    namespace: str | None = option(
        None,
        "serve the models of this namespace only, and what llmctl registered in it; else all, and what is in public",
    )
    discovery: str | None = option(None, DISCOVERY)
    request_plane: str | None = option(None, REQUEST_PLANE)
    event_plane: str | None = option(None, EVENT_PLANE)
    request_timeout_s: float = option(
        600.0, "seconds in which a request must be answered completely", least=0.001, most=86400
    )
    migration_limit: int | None = option(
        None,
        "how often a request may go on at another worker when one is lost, 0: never; else what the worker says",
        least=0,
        most=1024,
    )
    migration_max_seq_len: int | None = option(
        None, "requests with more tokens than this, in prompt and answer together, stay where they are", least=1
    )
    request_trace: str | None = option(
        None,
        "write when requests came and which blocks of their prompts are equal to this FILE, for dynamo replay",
        tier=Tier.BETA,
    )
    drain_s: float = option(30.0, "seconds that running requests get to finish at shutdown", least=0, most=86400)
    http_keep_alive_s: float = option(75.0, "seconds after which an idle connection is closed", least=1, most=86400)
    http_body_limit_mb: float = option(32.0, "largest request body in MiB", least=0.001, most=32)
    http_cors_origins: str | None = option(None, CORS_ORIGINS, tier=Tier.BETA)


@dataclass(frozen=True, kw_only=True)
class FrontendConfig(RouterSettings, _ServerSettings):
    """What the frontend listens on, its limits, and how requests find their workers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        read_origins(self.http_cors_origins)  # checks them

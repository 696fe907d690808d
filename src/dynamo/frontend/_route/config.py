"""The settings of `dynamo route`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dynamo._core.errors import ConfigError
from dynamo._core.stability import Tier
from dynamo.frontend._cors import CORS_ORIGINS, read_origins
from dynamo.frontend._route.addresses import BackendAddress, read_addresses
from dynamo.llm._kv_router.config import RouterMode
from dynamo.llm._model_card import KV_CACHE_BLOCK_SIZE
from dynamo.llm._router_settings import RouterSettings
from dynamo.runtime._settings import Settings, option, read_settings, required_option

PROG = "dynamo route"
ABOUT = (
    "Route requests to OpenAI servers (vLLM, SGLang, llama.cpp, ...) that need nothing of ours: each goes where the "
    "KV cache of its prompt is, and where there is the least to do."
)
#: Options that may be given several times; their values are joined with spaces, and so are they in a variable.
_REPEATED = ("--backend", "--backend-kv-events")


@dataclass(frozen=True, kw_only=True)
class _RouteSettings(Settings):
    """The servers behind it, what it listens on, and its limits."""

    backend: str = required_option("URL of a server, http://HOST:PORT; repeat it for each one")
    backend_kv_events: str | None = option(
        None,
        "where a server publishes vLLM's KV events: tcp://HOST:PORT[,REPLAY_ENDPOINT][,bind], or none; repeat it for "
        "each backend, in the same order",
    )
    model_path: str | None = option(
        None, "directory with the tokenizer of the servers' model; without it, prompts are compared as text"
    )
    block_size: int = option(
        KV_CACHE_BLOCK_SIZE, "tokens in a block of the servers' caches, until events tell", least=1, most=4096
    )
    backend_kv_blocks: int | None = option(None, "blocks in the cache of each server, if you know it", least=1)
    http_host: str = option("127.0.0.1", "address to listen on")
    http_port: int = option(8000, "port to listen on; 0 picks a free one", least=0, most=65535)
    insecure: bool = option(False, "allow an address that other machines reach, although nobody is authenticated")
    request_timeout_s: float = option(
        600.0, "seconds in which a request must be answered completely", least=0.001, most=86400
    )
    connect_timeout_s: float = option(3.0, "seconds in which a server must take a connection", least=0.01, most=600)
    check_interval_s: float = option(5.0, "seconds from one check of a server to the next", least=0.05, most=3600)
    check_timeout_s: float = option(5.0, "seconds that a check may take", least=0.05, most=600)
    drain_s: float = option(30.0, "seconds that running requests get to finish at shutdown", least=0, most=86400)
    http_keep_alive_s: float = option(75.0, "seconds after which an idle connection is closed", least=1, most=86400)
    http_body_limit_mb: float = option(32.0, "largest request body in MiB", least=0.001, most=32)
    http_cors_origins: str | None = option(None, CORS_ORIGINS, tier=Tier.BETA)


@dataclass(frozen=True, kw_only=True)
class RouteConfig(RouterSettings, _RouteSettings):
    """All of them; the router is that of the frontend, in another mode unless one is given."""

    router_mode: str = option(
        RouterMode.KV.value,
        "how the server of a request is found; kv: where its prompt's KV cache is, beside the load",
        choices=[mode.value for mode in RouterMode],
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.addresses()  # checks them
        read_origins(self.http_cors_origins)
        if self.router_mode == RouterMode.KV.value:
            self._check_kv()
            return
        for name in ("backend_kv_events", "model_path", "backend_kv_blocks"):
            if getattr(self, name) is not None:
                flag = "--" + name.replace("_", "-")
                raise ConfigError(f"{flag} is for the router mode kv, and this one is {self.router_mode}", setting=name)

    def addresses(self) -> tuple[BackendAddress, ...]:
        """The servers. Raises `ConfigError` for one that is written wrongly."""
        return read_addresses(self.backend, self.backend_kv_events)

    @property
    def has_events(self) -> bool:
        return any(one.events is not None for one in self.addresses())

    def _check_kv(self) -> None:
        if self.has_events and self.model_path is None:
            raise ConfigError(
                "--backend-kv-events tell of tokens, and nobody here knows those of a prompt: add --model-path with "
                "the directory of the servers' model",
                setting="backend_kv_events",
            )
        if self.has_events and not self.router_use_kv_events:
            raise ConfigError(
                "--backend-kv-events and --no-router-use-kv-events contradict each other", setting="backend_kv_events"
            )
        if self.router_replica_sync:
            raise ConfigError(
                "--router-replica-sync is for routers that find each other, and those of dynamo route do not: leave "
                "it out, or put workers of ours behind python -m dynamo.frontend",
                setting="router_replica_sync",
            )
        for name, value in (
            ("--active-decode-blocks-threshold", self.active_decode_blocks_threshold is not None),
            ("--router-approximate-cache-policy lru", self.router_approximate_cache_policy == "lru"),
        ):
            if value and self.backend_kv_blocks is None:
                raise ConfigError(
                    f"{name} needs to know how large the servers' caches are: add --backend-kv-blocks",
                    setting="backend_kv_blocks",
                )

    def _kv_fields(self) -> dict[str, object]:
        return {**super()._kv_fields(), "use_kv_events": self.has_events}


def read_config(arguments: Sequence[str], environ: Mapping[str, str]) -> RouteConfig:
    """Read the settings. Raises `ConfigError`; exits, with status 0, on `--help`."""
    return read_settings(RouteConfig, joined(arguments), environ, prog=PROG, description=ABOUT)


def joined(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with options that are repeated as one."""
    rest: list[str] = []
    values: dict[str, list[str]] = {}
    remaining = iter(arguments)
    for argument in remaining:
        flag, separator, value = argument.partition("=")
        if flag not in _REPEATED:
            rest.append(argument)
            continue
        given = value if separator else next(remaining, None)
        if given is None or (not separator and given.startswith("--")):
            raise ConfigError(f"{flag} needs a value: write {flag} VALUE", setting=flag)
        values.setdefault(flag, []).append(given)
    return [*(f"{flag}={' '.join(given)}" for flag, given in values.items()), *rest]

"""The settings of a router that is a process of its own."""

from __future__ import annotations

from dataclasses import dataclass

from dynamo._core.address import EndpointId, check_name
from dynamo._core.errors import ConfigError, InvalidArgument
from dynamo._core.stability import Tier
from dynamo.llm._router_settings import RouterSettings
from dynamo.runtime._settings import DISCOVERY, EVENT_PLANE, REQUEST_PLANE, Settings, option, required_option

#: What was booked and never freed is given back after so long.
BOOKING_TIMEOUT_S = 300.0


@dataclass(frozen=True, kw_only=True)
class _ServiceSettings(Settings):
    """Whom the router follows, and where it is found."""

    endpoint: str = required_option("endpoint of the workers, as NAMESPACE.COMPONENT.ENDPOINT")
    block_size: int | None = option(
        None, "tokens in a block of the workers' KV caches; else what their model cards say", least=1
    )
    namespace: str | None = option(
        None, "namespace of the router; else that of its workers. In another one, frontends find their model there"
    )
    component: str = option("router", "component of the router")
    booking_timeout_s: float = option(
        BOOKING_TIMEOUT_S,
        "seconds after which what was booked and never freed is given back",
        least=0.1,
        most=86400,
        tier=Tier.BETA,
    )
    discovery: str | None = option(None, DISCOVERY)
    request_plane: str | None = option(None, REQUEST_PLANE)
    event_plane: str | None = option(None, EVENT_PLANE)


@dataclass(frozen=True, kw_only=True)
class RouterOptions(RouterSettings, _ServiceSettings):
    """Whom the router follows, where it is found, and how it chooses."""

    router_mode: str = option(
        "kv", "how the worker of a request is found: where its prompt's KV cache is", choices=["kv"]
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        workers = self.workers_id
        for setting, name in (("namespace", self.own_namespace), ("component", self.component)):
            _checked_name(setting, name)
        if (self.own_namespace, self.component) == (workers.namespace, workers.component):
            raise ConfigError(
                f"the router would be {workers.namespace}.{workers.component}, which is what its workers are: "
                "give another --component or --namespace",
                setting="component",
            )

    @property
    def workers_id(self) -> EndpointId:
        """The endpoint of the workers."""
        try:
            return EndpointId.parse(self.endpoint)
        except InvalidArgument as error:
            raise ConfigError(f"--endpoint: {error.message}", setting="endpoint") from error

    @property
    def own_namespace(self) -> str:
        """Where the router itself is found."""
        return self.workers_id.namespace if self.namespace is None else self.namespace

    @property
    def serves_model(self) -> bool:
        """Whether frontends are told of it. Those that see its workers must not see the same model twice."""
        return self.own_namespace != self.workers_id.namespace


def _checked_name(setting: str, name: str) -> None:
    try:
        check_name(setting, name)
    except InvalidArgument as error:
        raise ConfigError(f"--{setting}: {error.message}", setting=setting) from error

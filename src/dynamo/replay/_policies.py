"""The policies that a replay compares, by name: the router modes, two that know everything, and your own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dynamo._core.errors import ConfigError
from dynamo._core.stability import beta
from dynamo.llm import KvRouter, KvRouterConfig, RouterConfig, RouterMode
from dynamo.llm._model_card import ModelCard
from dynamo.llm._open_router import check_router_config, open_router
from dynamo.llm._routing import Router
from dynamo.llm._workers import Workers
from dynamo.replay._truth import Truth, most_cached
from dynamo.runtime import Endpoint

#: The KV router, if it knew at once and exactly what all caches hold.
ORACLE = "oracle"
#: That, and whoever has most of a prompt gets it, however much there is to do: the most that caches can give.
MOST_CACHED = "most-cached"
#: Requests of a trace name no worker, and each would be refused.
_IMPOSSIBLE = (RouterMode.Direct,)
_MODES = tuple(mode for mode in RouterMode if mode not in _IMPOSSIBLE)
KNOWN = ", ".join([*(mode.value for mode in _MODES), ORACLE, MOST_CACHED])
COMPARED_MAX = 16


@beta(since="0.1")
@dataclass(frozen=True, slots=True)
class Policy:
    """How the worker of a request is found."""

    name: str
    config: RouterConfig
    #: Whether it knows what all caches hold.
    is_omniscient: bool = False

    async def open(self, endpoint: Endpoint, workers: Workers, card: ModelCard, truth: Truth) -> Router | None:
        """Return its router for these workers; None if they are asked in turn. It ends with the workers."""
        if not self.is_omniscient:
            return await open_router(self.config, endpoint, workers, card)
        return await KvRouter.create(
            endpoint, card.kv_cache_block_size, self.config.config,
            policy=most_cached if self.name == MOST_CACHED else None,
            indexer=truth, client=workers.client, workers=workers,
        )  # fmt: skip


@beta(since="0.1")
def read_policies(names: Sequence[str], kv_router_config: KvRouterConfig | None = None) -> list[Policy]:
    """Return the policies with these names: router modes, `oracle`, `most-cached`, or `module:function`, your own.

    `kv_router_config` is for the mode `kv` and for all that are no modes. Raises `ConfigError` for a name
    that is none, for a policy that cannot be loaded, and for a `kv_router_config` that none of them takes.
    """
    policies = [_read(name, kv_router_config or KvRouterConfig()) for name in dict.fromkeys(names)]
    if not 1 <= len(policies) <= COMPARED_MAX:
        raise ConfigError(f"a replay compares from 1 to {COMPARED_MAX} policies, and these are {len(policies)}")
    if kv_router_config is not None and all(policy.config.mode is not RouterMode.KV for policy in policies):
        raise ConfigError(
            f"--kv-router-config is for the KV router, and none of {', '.join(one.name for one in policies)} is one: "
            "add kv, or leave it out",
            setting="kv_router_config",
        )
    for policy in policies:
        check_router_config(policy.config)
    return policies


def _read(name: str, kv_config: KvRouterConfig) -> Policy:
    if name in (ORACLE, MOST_CACHED):
        return Policy(name, RouterConfig(RouterMode.KV, kv_config), is_omniscient=True)
    if ":" in name:
        return Policy(name, RouterConfig(RouterMode.KV, kv_config.with_overrides(policy=name)))
    wanted = name.replace("_", "-")
    for mode in _MODES:
        if mode.value == wanted:
            return Policy(mode.value, RouterConfig(mode, kv_config if mode is RouterMode.KV else None))
    raise ConfigError(f"there is no policy {name!r} to replay with; there are {KNOWN}, and module:function of your own")

"""From a router's configuration to the router of one model."""

from __future__ import annotations

import asyncio
import logging

from dynamo._core.errors import ConfigError
from dynamo.llm._kv_router.config import KvRouterConfig, RouterConfig, RouterMode
from dynamo.llm._model_card import ModelCard, ModelInput
from dynamo.llm._routing import Router
from dynamo.llm._routing_modes import ModeRouter
from dynamo.llm._workers import Workers
from dynamo.runtime import Endpoint

logger = logging.getLogger(__name__)


def check_router_config(config: RouterConfig) -> None:
    """Raise `ConfigError` for what this mode has no use for, and for a policy that cannot be loaded."""
    if config.mode is RouterMode.KV:
        if config.config is not None and config.config.policy is not None:
            from dynamo.llm._kv_router.policy import CustomPolicy

            CustomPolicy.load(config.config.policy)
        return
    if config.load_thresholds.is_set:
        raise ConfigError(f"load thresholds are for the router mode kv, and this one is {config.mode.value}")
    if config.session_affinity_mode == "soft":
        raise ConfigError(
            f"session_affinity_mode soft is for the router mode kv, and this one is {config.mode.value}: "
            "it has no costs to compare"
        )


async def open_router(
    config: RouterConfig, endpoint: Endpoint, workers: Workers, card: ModelCard | None
) -> Router | None:
    """Return the router of a model whose workers are at `endpoint`; None if they are asked in turn.

    Without a card, or with one of workers that take text, nothing is known of prompts: the KV router then looks at
    loads only.
    """
    if config.mode is RouterMode.KV:
        return await _open_kv_router(config, endpoint, workers, card)
    if config.mode is RouterMode.RoundRobin and config.session_affinity_ttl_secs is None:
        return None
    clock = asyncio.get_running_loop().time
    return ModeRouter(config.mode, workers, endpoint.runtime.rng, clock, session_ttl_s=config.session_affinity_ttl_secs)


async def _open_kv_router(config: RouterConfig, endpoint: Endpoint, workers: Workers, card: ModelCard | None) -> Router:
    from dynamo.llm._kv_router.router import KvRouter

    kv_config = config.config or KvRouterConfig()
    if card is None or card.model_input is not ModelInput.Tokens:
        logger.info(
            "the workers at %s take text, whose tokens are not known here: they are chosen by load", endpoint.id
        )
        kv_config = kv_config.with_overrides(overlap_score_credit=0.0)
    return await KvRouter.create(
        endpoint,
        1 if card is None else card.kv_cache_block_size,
        kv_config,
        session_affinity_ttl_secs=config.session_affinity_ttl_secs,
        session_affinity_mode=config.session_affinity_mode,
        load_threshold_config=config.load_thresholds,
        client=workers.client,
        workers=workers,
    )

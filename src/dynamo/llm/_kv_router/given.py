"""What a KV router is given: checked, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypedDict, TypeVar

import msgspec

from dynamo._core.errors import ConfigError, InvalidArgument
from dynamo.llm._kv_arguments import check_block_size, check_kind, check_text_or_none, check_tokens
from dynamo.llm._kv_router.approx import ApproxIndex
from dynamo.llm._kv_router.config import AffinityMode, KvRouterConfig, LoadThresholdConfig
from dynamo.llm._kv_router.policy import CustomPolicy, Policy
from dynamo.llm._kv_router.selector import Overlaps
from dynamo.llm._routing import RoutedWorkers, RouterConfigOverride, RoutingConstraints
from dynamo.runtime import Client, Endpoint
from dynamo.runtime._component import Component

T = TypeVar("T")

#: What a router goes by when it says what is cached where; see `KvRouter`.
IndexKind = Literal["exact", "approximate", "none", "given"]


class RouterOptions(TypedDict, total=False):
    """What can be given to a router besides its configuration; see `KvRouter`."""

    session_affinity_ttl_secs: float | None
    session_affinity_mode: AffinityMode
    load_threshold_config: LoadThresholdConfig
    policy: Policy | None
    indexer: Overlaps | None
    client: Client | None
    workers: RoutedWorkers | None


def check_arguments(endpoint: object, block_size: object, config: object, load_threshold_config: object) -> None:
    """Raise `InvalidArgument` for what is of another kind than it must be."""
    if isinstance(endpoint, Component):
        raise InvalidArgument(
            f"endpoint is the component {endpoint.name}: give the endpoint of its workers that takes requests, such as "
            f"component.endpoint('generate')"
        )
    check_kind("endpoint", endpoint, Endpoint, "the workers' endpoint, runtime.endpoint('ns.component.endpoint')")
    check_block_size("block_size", block_size)
    if config is not None:
        how = "a KvRouterConfig, such as KvRouterConfig.from_fields({...})"
        check_kind("kv_router_config", config, KvRouterConfig, how)
    check_kind("load_threshold_config", load_threshold_config, LoadThresholdConfig, "a LoadThresholdConfig")


def index_kind_of(config: KvRouterConfig, indexer: Overlaps | None) -> IndexKind:
    if indexer is not None:
        return "given"
    if config.overlap_score_credit <= 0:
        return "none"
    return "exact" if config.use_kv_events else "approximate"


def policy_of(given: Policy | None, name: str | None) -> CustomPolicy | None:
    if given is not None and name is not None:
        raise ConfigError(f"there are two policies: {name!r} of the configuration, and the one given", setting="policy")
    if name is not None:
        return CustomPolicy.load(name)
    return None if given is None else CustomPolicy(given)


def sent_index_of(config: KvRouterConfig, indexer: Overlaps | None) -> ApproxIndex | None:
    """The index of what was sent where, if the configuration asks for one."""
    if config.overlap_score_credit <= 0:
        return None
    if config.use_kv_events:
        return None if config.predicted_ttl_secs is None else ApproxIndex(ttl_s=config.predicted_ttl_secs)
    if indexer is not None:
        return None
    return ApproxIndex(ttl_s=config.router_ttl_secs if config.approximate_cache_policy == "ttl" else None)


def check_prompt(token_ids: object, lora_name: object, cache_namespace: object) -> None:
    """Raise `InvalidArgument` for what cannot be a prompt, and what it is told apart by."""
    check_tokens("token_ids", token_ids)
    check_text_or_none("lora_name", lora_name)
    check_text_or_none("cache_namespace", cache_namespace)


def check_wanted(override: object, constraints: object, session_id: object) -> None:
    """Raise `InvalidArgument` for what is no wish of a request."""
    if override is not None:
        check_kind("router_config_override", override, RouterConfigOverride, "a RouterConfigOverride, or None")
    check_kind("routing_constraints", constraints, RoutingConstraints, "RoutingConstraints")
    check_text_or_none("session_id", session_id)


def read_part(name: str, given: T | Mapping[str, object] | None, type: type[T]) -> T:
    """Return a part of a request that was given as it is, or as a dict."""
    if isinstance(given, type):
        return given
    try:
        return msgspec.convert({} if given is None else given, type)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"{name} is no {type.__name__}: {error}") from error

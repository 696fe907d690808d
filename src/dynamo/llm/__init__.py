"""Language models on the runtime: register one, serve its engine, and the pipeline between text and tokens.

What concerns KV caches is imported when it is asked for.
"""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING

from dynamo.llm._block_hash import compute_block_hash_for_seq
from dynamo.llm._engine import Engine
from dynamo.llm._fetch import fetch_llm
from dynamo.llm._messages import (
    CompletionUsage,
    EngineOutput,
    FinishReason,
    OutputOptions,
    PreprocessedRequest,
    PromptTokensDetails,
    SamplingOptions,
    StopConditions,
    TopLogprob,
)
from dynamo.llm._model_card import ModelInput, ModelType
from dynamo.llm._register import register_llm, serve_engine, unregister_llm

if TYPE_CHECKING:
    from dynamo.llm._kv_compat import KvEventPublisher, ZmqKvEventPublisher, ZmqKvEventPublisherConfig
    from dynamo.llm._kv_indexer import KvIndexer
    from dynamo.llm._kv_metrics import (
        ForwardPassMetrics,
        KvMetricsPublisher,
        KvStats,
        SpecDecodeStats,
        WorkerMetricsPublisher,
        WorkerStats,
    )
    from dynamo.llm._kv_metrics_aggregator import AggregatedMetrics, EndpointKvMetrics, KvMetricsAggregator
    from dynamo.llm._kv_publisher import KvPublisher
    from dynamo.llm._kv_radix_tree import OverlapScores, RadixTree
    from dynamo.llm._kv_recorder import KvRecorder
    from dynamo.llm._kv_router.approx_indexer import ApproxKvIndexer
    from dynamo.llm._kv_router.config import KvRouterConfig, LoadThresholdConfig, PolicyClass, RouterConfig, RouterMode
    from dynamo.llm._kv_router.decision import Decision
    from dynamo.llm._kv_router.policy import Candidate
    from dynamo.llm._kv_router.router import KvRouter
    from dynamo.llm._routing import RouterConfigOverride, RoutingConstraints

__all__ = [
    "AggregatedMetrics",
    "ApproxKvIndexer",
    "Candidate",
    "CompletionUsage",
    "Decision",
    "EndpointKvMetrics",
    "Engine",
    "EngineOutput",
    "FinishReason",
    "ForwardPassMetrics",
    "KvEventPublisher",
    "KvIndexer",
    "KvMetricsAggregator",
    "KvMetricsPublisher",
    "KvPublisher",
    "KvRecorder",
    "KvRouter",
    "KvRouterConfig",
    "KvStats",
    "LoadThresholdConfig",
    "ModelInput",
    "ModelType",
    "OutputOptions",
    "OverlapScores",
    "PolicyClass",
    "PreprocessedRequest",
    "PromptTokensDetails",
    "RadixTree",
    "RouterConfig",
    "RouterConfigOverride",
    "RouterMode",
    "RoutingConstraints",
    "SamplingOptions",
    "SpecDecodeStats",
    "StopConditions",
    "TopLogprob",
    "WorkerMetricsPublisher",
    "WorkerStats",
    "ZmqKvEventPublisher",
    "ZmqKvEventPublisherConfig",
    "compute_block_hash_for_seq",
    "fetch_llm",
    "register_llm",
    "serve_engine",
    "unregister_llm",
]

#: Where each name is that is imported when it is asked for.
_LAZY = {
    "AggregatedMetrics": "_kv_metrics_aggregator",
    "ApproxKvIndexer": "_kv_router.approx_indexer",
    "Candidate": "_kv_router.policy",
    "Decision": "_kv_router.decision",
    "EndpointKvMetrics": "_kv_metrics_aggregator",
    "ForwardPassMetrics": "_kv_metrics",
    "KvEventPublisher": "_kv_compat",
    "KvIndexer": "_kv_indexer",
    "KvMetricsAggregator": "_kv_metrics_aggregator",
    "KvMetricsPublisher": "_kv_metrics",
    "KvPublisher": "_kv_publisher",
    "KvRecorder": "_kv_recorder",
    "KvRouter": "_kv_router.router",
    "KvRouterConfig": "_kv_router.config",
    "KvStats": "_kv_metrics",
    "LoadThresholdConfig": "_kv_router.config",
    "OverlapScores": "_kv_radix_tree",
    "PolicyClass": "_kv_router.config",
    "RadixTree": "_kv_radix_tree",
    "RouterConfig": "_kv_router.config",
    "RouterConfigOverride": "_routing",
    "RouterMode": "_kv_router.config",
    "RoutingConstraints": "_routing",
    "SpecDecodeStats": "_kv_metrics",
    "WorkerMetricsPublisher": "_kv_metrics",
    "WorkerStats": "_kv_metrics",
    "ZmqKvEventPublisher": "_kv_compat",
    "ZmqKvEventPublisherConfig": "_kv_compat",
}
#: Older names of `KvPublisher`.
_FORMER = ("KvEventPublisher", "ZmqKvEventPublisher", "ZmqKvEventPublisherConfig")


def __getattr__(name: str) -> object:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _FORMER:
        warnings.warn(
            f"dynamo.llm.{name} is dynamo.llm.KvPublisher now, and goes with version 1.0",
            DeprecationWarning,
            stacklevel=2,
        )
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)

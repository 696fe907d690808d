"""Language models on the runtime: register one, serve its engine, and the pipeline between text and tokens.

What concerns KV caches is imported when it is asked for.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from dynamo._core._log_message import log_message
from dynamo._core.lazy import lazy_names
from dynamo._core.stability import Stability, Tier
from dynamo.llm._block_hash import compute_block_hash_for_seq
from dynamo.llm._engine import Engine
from dynamo.llm._fetch import fetch_llm, fetch_model
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
from dynamo.llm._register import register_llm, register_model, serve_engine, unregister_llm, unregister_model

if TYPE_CHECKING:
    from dynamo.llm._compat import (
        KvEventPublisher,
        KvPushRouter,
        KvPushRouterStream,
        ZmqKvEventListener,
        ZmqKvEventPublisher,
        ZmqKvEventPublisherConfig,
        compute_block_hash_for_seq_py,
    )
    from dynamo.llm._entrypoint_backend import Backend
    from dynamo.llm._entrypoint_door import (
        EngineConfig,
        EngineType,
        EntrypointArgs,
        HttpService,
        make_engine,
        run_input,
    )
    from dynamo.llm._entrypoint_engines import HttpAsyncEngine, PythonAsyncEngine
    from dynamo.llm._entrypoint_errors import HttpError
    from dynamo.llm._entrypoint_preprocessor import OAIChatPreprocessor
    from dynamo.llm._kv_indexer import KvIndexer
    from dynamo.llm._kv_metrics import KvMetricsPublisher, WorkerMetricsPublisher
    from dynamo.llm._kv_metrics_aggregator import AggregatedMetrics, EndpointKvMetrics, KvMetricsAggregator
    from dynamo.llm._kv_publisher import KvPublisher
    from dynamo.llm._kv_radix_tree import OverlapScores, RadixTree
    from dynamo.llm._kv_recorder import KvRecorder
    from dynamo.llm._kv_router.approx_indexer import ApproxKvIndexer
    from dynamo.llm._kv_router.config import KvRouterConfig, LoadThresholdConfig, PolicyClass, RouterConfig, RouterMode
    from dynamo.llm._kv_router.decision import Decision
    from dynamo.llm._kv_router.policy import Candidate
    from dynamo.llm._kv_router.router import KvRouter
    from dynamo.llm._load_stats import ForwardPassMetrics, KvStats, SpecDecodeStats, WorkerStats
    from dynamo.llm._model_card import ModelCard as _ModelCard
    from dynamo.llm._model_config import ModelConfig
    from dynamo.llm._model_config import ModelRuntimeConfig as ModelRuntimeConfig
    from dynamo.llm._routing import RouterConfigOverride, RoutingConstraints

    ModelDeploymentCard = _ModelCard

__all__ = [
    "AggregatedMetrics",
    "ApproxKvIndexer",
    "Backend",
    "Candidate",
    "CompletionUsage",
    "Decision",
    "EndpointKvMetrics",
    "Engine",
    "EngineConfig",
    "EngineOutput",
    "EngineType",
    "EntrypointArgs",
    "FinishReason",
    "ForwardPassMetrics",
    "HttpAsyncEngine",
    "HttpError",
    "HttpService",
    "KvEventPublisher",
    "KvIndexer",
    "KvMetricsAggregator",
    "KvMetricsPublisher",
    "KvPublisher",
    "KvPushRouter",
    "KvPushRouterStream",
    "KvRecorder",
    "KvRouter",
    "KvRouterConfig",
    "KvStats",
    "LoadThresholdConfig",
    "ModelConfig",
    "ModelInput",
    "ModelType",
    "OAIChatPreprocessor",
    "OutputOptions",
    "OverlapScores",
    "PolicyClass",
    "PreprocessedRequest",
    "PromptTokensDetails",
    "PythonAsyncEngine",
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
    "ZmqKvEventListener",
    "ZmqKvEventPublisher",
    "ZmqKvEventPublisherConfig",
    "compute_block_hash_for_seq",
    "compute_block_hash_for_seq_py",
    "fetch_llm",
    "fetch_model",
    "log_message",
    "make_engine",
    "register_llm",
    "register_model",
    "run_input",
    "serve_engine",
    "unregister_llm",
    "unregister_model",
]
#: The marks of what can carry none.
__stability__: dict[str, Stability] = {"FinishReason": Stability(Tier.STABLE, "0.1")}

#: Where each name is that is imported when it is asked for.
_LAZY = {
    "AggregatedMetrics": "._kv_metrics_aggregator",
    "ApproxKvIndexer": "._kv_router.approx_indexer",
    "Backend": "._entrypoint_backend",
    "Candidate": "._kv_router.policy",
    "Decision": "._kv_router.decision",
    "EndpointKvMetrics": "._kv_metrics_aggregator",
    "EngineConfig": "._entrypoint_door",
    "EngineType": "._entrypoint_door",
    "EntrypointArgs": "._entrypoint_door",
    "ForwardPassMetrics": "._load_stats",
    "HttpAsyncEngine": "._entrypoint_engines",
    "HttpError": "._entrypoint_errors",
    "HttpService": "._entrypoint_door",
    "KvEventPublisher": "._compat",
    "KvIndexer": "._kv_indexer",
    "KvMetricsAggregator": "._kv_metrics_aggregator",
    "KvMetricsPublisher": "._kv_metrics",
    "KvPublisher": "._kv_publisher",
    "KvPushRouter": "._compat",
    "KvPushRouterStream": "._compat",
    "KvRecorder": "._kv_recorder",
    "KvRouter": "._kv_router.router",
    "KvRouterConfig": "._kv_router.config",
    "KvStats": "._load_stats",
    "LoadThresholdConfig": "._kv_router.config",
    "ModelConfig": "._model_config",
    "OAIChatPreprocessor": "._entrypoint_preprocessor",
    "OverlapScores": "._kv_radix_tree",
    "PolicyClass": "._kv_router.config",
    "PythonAsyncEngine": "._entrypoint_engines",
    "RadixTree": "._kv_radix_tree",
    "RouterConfig": "._kv_router.config",
    "RouterConfigOverride": "._routing",
    "RouterMode": "._kv_router.config",
    "RoutingConstraints": "._routing",
    "SpecDecodeStats": "._load_stats",
    "WorkerMetricsPublisher": "._kv_metrics",
    "WorkerStats": "._load_stats",
    "ZmqKvEventListener": "._compat",
    "ZmqKvEventPublisher": "._compat",
    "ZmqKvEventPublisherConfig": "._compat",
    "compute_block_hash_for_seq_py": "._compat",
    "make_engine": "._entrypoint_door",
    "run_input": "._entrypoint_door",
}
#: Names that have moved out of sight, and where they are; each import of one warns.
_MOVED = {"ModelDeploymentCard": "._model_card:ModelCard", "ModelRuntimeConfig": "._model_config"}

if not TYPE_CHECKING:  # to a type checker there is nothing here but the names above
    _lazy = lazy_names(__name__, _LAZY | _MOVED)

    def __getattr__(name: str) -> object:
        if name in _MOVED:
            warnings.warn(
                f"dynamo.llm.{name} is dynamo._internal.{name} now, and goes from here with version 1.0",
                DeprecationWarning,
                stacklevel=2,
            )
        return _lazy(name)

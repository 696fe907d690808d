"""What code that was written for something else says here: names of Dynamo's SDK 0.x, of Dynamo 1.x and of BentoML.

Names that are here under the same name, at the same place, and are to stay are not listed.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Moved:
    """What became of a name."""

    #: What to write instead; empty if there is nothing here that does it.
    new: str
    #: What else there is to know.
    note: str = ""
    #: Whether the old name works, with a warning, until version 1.0.
    works: bool = False

    def __str__(self) -> str:
        if not self.new:
            return self.note or "there is nothing like it here"
        until = " before version 1.0" if self.works else ""
        return f"write {self.new}{until}{', ' if self.note else ''}{self.note}"


_OF_METRICS = "if this is of Dynamo's metrics"
_LEAVE_OUT = Moved("", "leave it out", True)
_NO_MEANING = Moved("", "it has no meaning here: leave it out")
_NO_MEDIA = Moved("", "there are no images, sounds or videos yet: leave it out")
_RUNTIME = Moved("async with DistributedRuntime(discovery=..., request_plane=...)", "with URLs", True)

#: Names of Dynamo that are older, elsewhere, or not here, by module.
DYNAMO: dict[str, Moved] = {
    # Still here, until version 1.0.
    "dynamo.runtime.Namespace": Moved("dynamo._internal.Namespace", "or take what runtime.namespace() gives", True),
    "dynamo.runtime.Component": Moved("dynamo._internal.Component", "or take what .component() gives", True),
    "dynamo.runtime.Context": Moved("dynamo._internal.Context", "handlers are given theirs", True),
    "dynamo.runtime.CancellationToken": Moved("dynamo._internal.CancellationToken", "", True),
    "dynamo.llm.ModelDeploymentCard": Moved("dynamo._internal.ModelDeploymentCard", "", True),
    "dynamo.llm.ModelRuntimeConfig": Moved("dynamo._internal.ModelRuntimeConfig", "", True),
    "dynamo.llm.KvEventPublisher": Moved("dynamo.llm.KvPublisher", "", True),
    "dynamo.llm.ZmqKvEventPublisher": Moved("dynamo.llm.KvPublisher", "with zmq_endpoint=", True),
    "dynamo.llm.ZmqKvEventPublisherConfig": Moved("dynamo.llm.KvPublisher", "its arguments are these fields", True),
    "dynamo.llm.ZmqKvEventListener": Moved("dynamo.llm.KvPublisher", "with zmq_endpoint=", True),
    "dynamo.llm.KvPushRouter": Moved("dynamo.llm.KvRouter", "", True),
    "dynamo.llm.KvPushRouterStream": Moved("dynamo.llm.KvRouter", "its generate() gives the stream", True),
    "dynamo.llm.compute_block_hash_for_seq_py": Moved("dynamo.llm.compute_block_hash_for_seq", "", True),
    "dynamo.runtime.DistributedRuntime.detached": Moved("async with DistributedRuntime()", "", True),
    "dynamo.metrics.RuntimeMetrics": Moved("dynamo.metrics.Metrics", "", True),
    "dynamo.metrics.IntCounter": Moved("dynamo.metrics.Counter", "", True),
    "dynamo.metrics.CounterVec": Moved("dynamo.metrics.Counter", "", True),
    "dynamo.metrics.IntCounterVec": Moved("dynamo.metrics.Counter", "", True),
    "dynamo.metrics.IntGauge": Moved("dynamo.metrics.Gauge", "", True),
    "dynamo.metrics.GaugeVec": Moved("dynamo.metrics.Gauge", "", True),
    "dynamo.metrics.IntGaugeVec": Moved("dynamo.metrics.Gauge", "", True),
    # Not here.
    "dynamo.llm.ModelType.Backend": Moved(
        "", "write ModelType.Chat | ModelType.Completions, and ModelInput.Tokens for what the worker takes"
    ),
    "dynamo.sdk.lib.service.DynamoService": Moved("dynamo.sdk.Service"),
    "dynamo.sdk.lib.dependency.depends": Moved("dynamo.sdk.depends"),
    "dynamo.sdk.lib.loader": Moved("", "graphs are found by `dynamo serve MODULE:SERVICE`"),
    "dynamo.sdk.cli": Moved("", "the commands are `dynamo serve`, `dynamo run` and so on"),
    "dynamo.planner": Moved("", "there is no planner yet"),
    "dynamo.nixl_connect": Moved("", "moving blocks between workers is not here yet"),
    "dynamo.logits_processing": Moved("", "logits processors are not here yet"),
    "dynamo.common": Moved(
        "dynamo.llm", "an engine is any class with generate(request, context), served by serve_engine"
    ),
    "dynamo.health_check": Moved("", "give health_check_payload= to serve()"),
    "dynamo.prometheus_names": Moved("dynamo.metrics", "docs/observability.md lists the metrics"),
    "dynamo.experimental": Moved("", "what is experimental says so, at its own place"),
    "dynamo.llm.KserveGrpcService": Moved("dynamo.llm.HttpService", "there is no gRPC frontend"),
    "dynamo.llm.MediaDecoder": Moved("", "there are no images, sounds or videos yet"),
    "dynamo.llm.MediaFetcher": Moved("", "there are no images, sounds or videos yet"),
    "dynamo.llm.LoRADownloader": Moved("dynamo.llm.fetch_llm", "for the base model; adapters are not loaded yet"),
    "dynamo.llm.lora_name_to_id": Moved("", "adapters are known by their names"),
    "dynamo.llm.BlockManager": Moved("", "there is no block manager yet"),
    "dynamo.llm.KvbmCacheManager": Moved("", "there is no block manager yet"),
    "dynamo.llm.KvbmRequest": Moved("", "there is no block manager yet"),
    "dynamo.llm.VirtualConnectorCoordinator": Moved("", "there is no planner yet"),
    "dynamo.llm.VirtualConnectorClient": Moved("", "there is no planner yet"),
    "dynamo.llm.PlannerDecision": Moved("", "there is no planner yet"),
    "dynamo.llm.SelectionService": Moved("dynamo.llm.KvRouter", "or `python -m dynamo.router`"),
    "dynamo.llm.UnaryChatModel": Moved("dynamo.llm.HttpAsyncEngine"),
    "dynamo.llm.FpmEventRelay": Moved("dynamo.llm.WorkerMetricsPublisher"),
    "dynamo.llm.FpmDirectPublisher": Moved("dynamo.llm.WorkerMetricsPublisher"),
    "dynamo.llm.FpmEventSubscriber": Moved("dynamo.llm.KvMetricsAggregator"),
    "dynamo.runtime.DynamoException": Moved("dynamo.runtime.DynamoError"),
}

#: Methods that have other names here, or are not needed; looked for where a file imports `dynamo`.
METHODS: dict[str, Moved] = {
    "endpoint_ids": Moved("instance_ids", "", True),
    "wait_for_endpoints": Moved("wait_for_instances", "", True),
    "etcd_client": Moved("runtime.discovery", "whichever discovery that is", True),
    # Other libraries have methods of these names, too.
    "create_counter": Moved("counter", _OF_METRICS, True),
    "create_intcounter": Moved("counter", _OF_METRICS, True),
    "create_countervec": Moved("counter", _OF_METRICS, True),
    "create_intcountervec": Moved("counter", _OF_METRICS, True),
    "create_gauge": Moved("gauge", _OF_METRICS, True),
    "create_intgauge": Moved("gauge", _OF_METRICS, True),
    "create_gaugevec": Moved("gauge", _OF_METRICS, True),
    "create_intgaugevec": Moved("gauge", _OF_METRICS, True),
    "create_histogram": Moved("histogram", _OF_METRICS, True),
    "register_callback": Moved("on_scrape", _OF_METRICS, True),
    "register_prometheus_expfmt_callback": Moved("add_text", _OF_METRICS, True),
    "inc_by": Moved("inc", _OF_METRICS, True),
    "dec_by": Moved("dec", _OF_METRICS, True),
}

#: Arguments of calls: by the name of what is called, and theirs; `*` is whatever is given by place.
ARGUMENTS: dict[tuple[str, str], Moved] = {
    ("dynamo.runtime.dynamo_worker", "static"): _LEAVE_OUT,
    ("dynamo.runtime.dynamo_worker", "enable_nats"): _LEAVE_OUT,
    ("dynamo.runtime.DistributedRuntime", "*"): _RUNTIME,
    ("dynamo.runtime.DistributedRuntime", "event_loop"): _RUNTIME,
    ("dynamo.runtime.DistributedRuntime", "discovery_backend"): _RUNTIME,
    ("dynamo.runtime.DistributedRuntime", "enable_nats"): _RUNTIME,
    ("dynamo.runtime.DistributedRuntime", "is_static"): _RUNTIME,
    ("dynamo.runtime.DistributedRuntime", "response_plane"): Moved("", "responses come back as requests went"),
    (".serve_endpoint", "metrics_labels"): Moved("", "leave it out: metrics have their labels by themselves"),
    (".client", "router_mode"): Moved("", "call round_robin() or random() of the client, or use dynamo.llm.KvRouter"),
    ("dynamo.llm.register_llm", "worker_type"): Moved("dynamo.llm.register_model"),
    ("dynamo.llm.register_llm", "ignore_weights"): Moved("dynamo.llm.register_model"),
    ("dynamo.llm.register_llm", "router_config"): Moved("register_llm(endpoint, ModelConfig(router_config=...))"),
    **{
        (function, argument): _NO_MEANING
        for function in ("dynamo.llm.register_llm", "dynamo.llm.register_model")
        for argument in (
            "tensor_model_config", "media_decoder", "media_fetcher", "needs", "self_host_metadata",
            "max_gpu_lora_count", "model_aliases", "skip_model_assets",
        )
    },
    ("dynamo.llm.KvRouter", "kv_block_size"): Moved("block_size"),
    (".schedule", "lora_id"): Moved("best_worker(token_ids)"),
    ("dynamo.llm.KvRouter", "ais_perf_config"): _NO_MEANING,
    ("dynamo.llm.KvEventPublisher", "image_token_id"): _NO_MEDIA,
    ("dynamo.llm.KvEventPublisher", "video_token_id"): _NO_MEDIA,
    ("dynamo.llm.KvEventPublisher", "kv_state_endpoint"): _NO_MEANING,
    ("dynamo.llm.HttpService", "wait_for_first_item"): _NO_MEANING,
}  # fmt: skip

#: BentoML's names.
BENTOML: dict[str, Moved] = {
    "bentoml": Moved("dynamo.sdk"),
    "bentoml.service": Moved("dynamo.sdk.service"),
    "bentoml.api": Moved("dynamo.sdk.api", "or dynamo.sdk.dynamo_endpoint for callers that are services"),
    "bentoml.depends": Moved("dynamo.sdk.depends"),
    "bentoml.on_startup": Moved("dynamo.sdk.async_on_start"),
    "bentoml.on_shutdown": Moved("dynamo.sdk.on_shutdown"),
    "bentoml.on_deployment": Moved("", "what is to be done once belongs before `dynamo serve`"),
    "bentoml.task": Moved("", "a work queue does such work: runtime.work_queue()"),
    "bentoml.asgi_app": Moved("dynamo.sdk.service", "with app=FastAPI()"),
    "bentoml.mount_asgi_app": Moved("dynamo.sdk.service", "with app=FastAPI()"),
    "bentoml.server_context": Moved("dynamo.sdk.server_context"),
    "bentoml.metrics": Moved("dynamo.metrics"),
    "bentoml.get_current_service": Moved("dynamo.sdk.dynamo_context"),
    "bentoml.use_arguments": Moved("dynamo.sdk.lib.config.ServiceConfig", "or constructor parameters of the service"),
    "bentoml.Context": Moved("", "handlers are given their context as a second argument"),
    "bentoml.SyncHTTPClient": Moved("", "any HTTP client calls an endpoint that has a path"),
    "bentoml.AsyncHTTPClient": Moved("", "any HTTP client calls an endpoint that has a path"),
    "bentoml.images": Moved("dynamo.sdk.DYNAMO_IMAGE"),
    "bentoml.models": Moved("dynamo.llm.fetch_llm"),
    "bentoml.exceptions": Moved("dynamo.runtime.DynamoError", "and its subclasses"),
    "bentoml.Service": Moved("dynamo.sdk.service", "on a class, whose methods are the endpoints"),
    "bentoml.Runner": Moved("dynamo.sdk.service", "a second service, called through dynamo.sdk.depends"),
    "bentoml.io": Moved("", "endpoints take and give pydantic models"),
}

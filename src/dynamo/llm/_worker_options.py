"""The options of a worker. A component adds its own in a subclass."""

from __future__ import annotations

from dataclasses import dataclass

from dynamo.llm._model_card import KV_CACHE_BLOCK_SIZE, MIGRATION_LIMIT
from dynamo.runtime._settings import Settings, option, required_option


@dataclass(frozen=True, kw_only=True)
class WorkerOptions(Settings):
    """What every worker of a model can be told."""

    model_path: str = required_option("model directory, or the model's name on the hub where the engine can fetch it")
    model_name: str | None = option(None, "what requests call the model; without it, the name in the model path")
    namespace: str = option("dynamo", "namespace of the endpoint")
    component: str = option("backend", "component of the endpoint")
    endpoint: str = option("generate", "name of the endpoint")
    endpoint_types: str = option("chat,completions", "which APIs the model is served through, separated by commas")
    context_length: int | None = option(None, "longest prompt and output together, if less than the model's", least=1)
    custom_jinja_template: str | None = option(None, "file of a chat template to use instead of the model's")
    kv_cache_block_size: int = option(KV_CACHE_BLOCK_SIZE, "tokens of a block in the eyes of a KV router", least=1)
    migration_limit: int = option(MIGRATION_LIMIT, "times that a request may move on from a lost worker", least=0)
    discovery: str | None = option(None, "where workers are found, as a URL: file:///some/dir, etcd://host:2379")
    request_plane: str | None = option(None, "how workers are called, as a URL: tcp:")

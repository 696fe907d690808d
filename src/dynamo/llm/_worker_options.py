"""The options of a worker. A component adds its own in a subclass."""

from __future__ import annotations

from dataclasses import dataclass

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
    discovery: str | None = option(None, "where workers are found: file:///DIR; else a directory of this user's")
    request_plane: str | None = option(None, "how workers are called, as a URL: tcp:")

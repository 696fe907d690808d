"""Aggregated serving: one HTTP frontend, and workers that do prefill and decode themselves."""

from dynamo.frontend import Frontend as HttpFrontend
from dynamo.sdk import depends, service
from dynamo.transformers import TransformersWorker


@service(dynamo={"namespace": "llm"}, workers=2)
class Worker(TransformersWorker):
    """Runs the model. Its parameters are those of `TransformersWorker`; `model_path` is needed."""


@service(dynamo={"namespace": "llm"})
class Frontend(HttpFrontend):
    """The OpenAI API. Its parameters are those of the frontend: `http_port` and the rest."""

    worker = depends(Worker)

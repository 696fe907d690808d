"""Aggregated serving with the KV router: requests go to the worker that has the most of their prompt cached."""

from dynamo.frontend import Frontend as HttpFrontend
from dynamo.sdk import depends, service
from dynamo.transformers import TransformersWorker


@service(dynamo={"namespace": "llm"}, workers=2)
class Worker(TransformersWorker):
    """Runs the model, keeps its KV cache in blocks, and tells routers which it holds."""


@service(dynamo={"namespace": "llm"})
class Frontend(HttpFrontend):
    """The OpenAI API. Its parameter `router` says how requests find their workers."""

    worker = depends(Worker)

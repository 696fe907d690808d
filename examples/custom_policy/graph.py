"""A frontend whose KV router asks a policy, and two simulated workers that have a KV cache and no model."""

from dynamo.frontend import Frontend as HttpFrontend
from dynamo.mocker import MockerWorker
from dynamo.sdk import depends, service


@service(dynamo={"namespace": "policy"}, workers=2)
class Worker(MockerWorker):
    """Behaves like an engine with a KV cache, and tells routers what is in it."""


@service(dynamo={"namespace": "policy"})
class Frontend(HttpFrontend):
    """The OpenAI API. Its parameter `router` names the policy."""

    worker = depends(Worker)

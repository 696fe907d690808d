"""The processor: asks the router for a worker, and sends the request to exactly that one."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

from components.protocol import GeneralRequest, GeneralResponse
from components.router import Router
from components.worker import DummyWorker
from dynamo.sdk import async_on_start, depends, dynamo_context, dynamo_endpoint, service

logger = logging.getLogger(__name__)


@service(dynamo={"namespace": "dynamo-demo"})
class Processor:
    router = depends(Router)

    @async_on_start
    async def connect(self) -> None:
        # A client instead of depends(): workers are started by themselves, and come and go.
        namespace, component = DummyWorker.dynamo_address()
        runtime = dynamo_context["runtime"]
        self.workers = await runtime.namespace(namespace).component(component).endpoint("worker_generate").client()

    @dynamo_endpoint()
    async def processor_generate(self, request: GeneralRequest) -> AsyncIterator[GeneralResponse]:
        """Have the request answered by the worker that knows most of its prompt."""
        answer = await self.router.check_hit_rate(request.prompt)
        worker_id, hit_rate = answer.split("_")
        logger.info("request %s goes to worker %s, hit rate %s", request.request_id, worker_id, hit_rate)
        chosen = request.model_copy(update={"hit_rate": float(hit_rate)})
        async for response in await self.workers.direct(chosen, int(worker_id)):
            yield GeneralResponse.model_validate(response.data())

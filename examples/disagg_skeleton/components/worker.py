"""The decode worker: has long, unknown prompts prefilled elsewhere, then generates."""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import AsyncIterator

from components.prefill_worker import PrefillWorker
from components.protocol import GeneralRequest, GeneralResponse, Prefilled
from dynamo.sdk import async_on_start, dynamo_context, dynamo_endpoint, service

logger = logging.getLogger(__name__)


@service(dynamo={"namespace": "dynamo-demo"})
class DummyWorker:
    def __init__(self, min_hit_rate: float = 0.5) -> None:
        self.min_hit_rate = min_hit_rate
        self.host = socket.gethostname()

    @async_on_start
    async def connect(self) -> None:
        namespace, component = PrefillWorker.dynamo_address()
        runtime = dynamo_context["runtime"]
        self.prefill = await runtime.namespace(namespace).component(component).endpoint("prefill").client()

    @dynamo_endpoint()
    async def worker_generate(self, request: GeneralRequest) -> AsyncIterator[GeneralResponse]:
        """Generate the prompt again, word by word, and the name of this host."""
        if request.hit_rate < self.min_hit_rate and self.prefill.instance_ids():
            async for response in await self.prefill.generate(request):
                prefilled = Prefilled.model_validate(response.data())
                logger.info("request %s was prefilled by %s", request.request_id, prefilled.host)
        else:
            logger.info("request %s is prefilled here", request.request_id)
        for word in [*re.findall(r"\s*\S+", request.prompt), f"_GeneratedBy_{self.host}"]:
            yield GeneralResponse(request_id=request.request_id, text=word)

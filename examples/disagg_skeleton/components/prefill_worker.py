"""The prefill worker: reads a prompt and makes the KV cache that a decode worker goes on with."""

from __future__ import annotations

import logging
import socket

from components.protocol import GeneralRequest, Prefilled
from dynamo.sdk import dynamo_endpoint, service

logger = logging.getLogger(__name__)


@service(dynamo={"namespace": "dynamo-demo"})
class PrefillWorker:
    @dynamo_endpoint()
    async def prefill(self, request: GeneralRequest) -> Prefilled:
        """Pretend to: an engine would compute the KV cache of the prompt here, and hand it over."""
        logger.info("prefilling request %s, %d characters", request.request_id, len(request.prompt))
        return Prefilled(request_id=request.request_id, host=socket.gethostname())

"""The frontend: HTTP in, text out."""

from __future__ import annotations

from collections.abc import AsyncIterator

from components.processor import Processor
from components.protocol import GeneralRequest
from dynamo.sdk import api, depends, service


@service(dynamo={"namespace": "dynamo-demo"})
class Frontend:
    processor = depends(Processor)

    @api
    async def generate(self, prompt: str, request_id: str) -> AsyncIterator[str]:
        """Stream the text that answers the prompt."""
        request = GeneralRequest(request_id=request_id, prompt=prompt)
        async for response in self.processor.processor_generate(request):
            yield response.text

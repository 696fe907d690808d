"""Hello World: three services in a row.

The frontend takes HTTP requests and asks the middle, which asks the backend. The backend answers with a
stream, and each service puts its name before every item that passes through it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

from pydantic import BaseModel

from dynamo.sdk import async_on_shutdown, async_on_start, depends, dynamo_endpoint, service

logger = logging.getLogger(__name__)


class RequestType(BaseModel):
    text: str


@service(dynamo={"namespace": "inference"}, workers=1)
class Backend:
    def __init__(self, message: str = "back") -> None:
        self.message = message

    @async_on_start
    async def load(self) -> None:
        logger.info("Backend says %r", self.message)

    @dynamo_endpoint()
    async def generate(self, request: RequestType) -> AsyncIterator[str]:
        """Yield the words of the text, one by one."""
        for word in f"{request.text}-{self.message}".split():
            yield f"Backend: {word}"


@service(dynamo={"namespace": "inference"})
class Middle:
    backend = depends(Backend)

    def __init__(self, message: str = "mid") -> None:
        self.message = message

    @dynamo_endpoint()
    async def generate(self, request: RequestType) -> AsyncIterator[str]:
        """Pass the text on, and what comes back."""
        async for item in self.backend.generate(RequestType(text=f"{request.text}-{self.message}")):
            yield f"Middle: {item}"


@service(dynamo={"namespace": "inference"})
class Frontend:
    middle = depends(Middle)

    @async_on_shutdown
    async def say_goodbye(self) -> None:
        logger.info("Frontend has answered its last request")

    @dynamo_endpoint(is_api=True)
    async def generate(self, request: RequestType) -> AsyncIterator[str]:
        """Stream the answer to the HTTP client."""
        async for item in self.middle.generate(request):
            yield f"Frontend: {item}"

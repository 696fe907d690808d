"""Models that answer what a test wants, an application over them, and a real server of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import httpx

from dynamo._core.context import Context
from dynamo._core.errors import NotFound
from dynamo.frontend._app import FrontendApp
from dynamo.frontend._server import DrainingServer, open_listener
from dynamo.llm._models import Pipeline
from dynamo.llm._openai import OpenAIRequest
from dynamo.llm._routing import NO_HINTS, Router, RoutingHints
from dynamo.runtime._http_protocol import HttpProtocol

DEADLINE_S = 60.0
MODEL = "tiny"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}

Answers = Callable[[OpenAIRequest, Context], AsyncIterator[list[bytes]]]


class FakePipeline:
    """A pipeline whose batches come from the test."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self.requests: list[OpenAIRequest] = []
        self.contexts: list[Context] = []
        self.hints: list[RoutingHints] = []
        self.closed = asyncio.Event()
        self.started = asyncio.Event()

    async def stream(
        self, request: OpenAIRequest, context: Context, hints: RoutingHints = NO_HINTS
    ) -> AsyncGenerator[list[bytes], None]:
        self.requests.append(request)
        self.contexts.append(context)
        self.hints.append(hints)
        self.started.set()
        try:
            async for batch in self._answers(request, context):
                yield batch
        finally:
            self.closed.set()

    async def complete(self, request: OpenAIRequest, context: Context, hints: RoutingHints = NO_HINTS) -> bytes:
        batches = [batch async for batch in self.stream(request, context, hints)]
        return b"[" + b",".join(chunk for batch in batches for chunk in batch) + b"]"


class FakeModels:
    """One model, or none."""

    def __init__(self, pipeline: FakePipeline | None, passed_over: Sequence[str] = ()) -> None:
        self._pipeline = pipeline
        self._passed_over = list(passed_over)

    def pipeline(self, name: str, request: OpenAIRequest | None = None) -> Pipeline:
        if self._pipeline is None or name != MODEL:
            raise NotFound(f"the model {name!r} does not exist", code="model_not_found", param="model")
        return self._pipeline

    def names(self) -> list[str]:
        return [] if self._pipeline is None else [MODEL]

    def created_s(self, name: str) -> int:
        return 1

    def user_data(self, name: str) -> Mapping[str, object]:
        return {}

    def instances(self) -> dict[str, list[str]]:
        return {name: ["test/worker/generate/1"] for name in self.names()}

    def passed_over(self) -> list[str]:
        return self._passed_over

    def routers(self) -> dict[str, Router]:
        return {}

    def router_warnings(self) -> list[str]:
        return []


def pipeline_of(*batches: list[bytes], error: Exception | None = None) -> FakePipeline:
    """A pipeline that yields these batches, and then perhaps fails."""

    async def answers(_: OpenAIRequest, __: Context) -> AsyncIterator[list[bytes]]:
        for batch in batches:
            yield batch
        if error is not None:
            raise error

    return FakePipeline(answers)


def client_of(app: FrontendApp) -> httpx.AsyncClient:
    """A client of the application itself, without a server."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test", timeout=DEADLINE_S)


@asynccontextmanager
async def serving(app: FrontendApp, protocol: type[HttpProtocol] = HttpProtocol) -> AsyncIterator[DrainingServer]:
    """A real server on a free port."""
    server = DrainingServer(app, open_listener("127.0.0.1", 0, insecure=False), keep_alive_s=5.0, protocol=protocol)
    await server.start()
    try:
        yield server
    finally:
        await server.stop(0.0)


def port_of(server: DrainingServer) -> int:
    return int(server.url.rpartition(":")[2])

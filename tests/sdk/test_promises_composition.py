"""The documented ways to compose services: all edges that are declared, or only those that are linked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.sdk.project import Project

COMPONENTS = """
from dynamo.sdk import async_on_start, depends, dynamo_endpoint, service

@service(dynamo={"namespace": "dynamo"})
class VllmWorker:
    @dynamo_endpoint()
    async def generate(self, request: dict):
        yield {"text": request["text"].upper()}

@service(dynamo={"namespace": "dynamo"})
class Router:
    @dynamo_endpoint()
    async def route(self, request: dict):
        yield f"worker for {request['text']}"

class ProcessMixIn:
    \"\"\"What every processor does before it has a worker.\"\"\"

    @async_on_start
    async def load(self):
        self.ready_to_process = True

@service(dynamo={"namespace": "dynamo"})
class Processor(ProcessMixIn):
    \"\"\"
    vLLM pre and post processing
    \"\"\"

    worker = depends(VllmWorker)
    router = depends(Router)

    # logic for processing a request based on router or worker
    @dynamo_endpoint()
    async def process(self, request: dict):
        assert self.ready_to_process
        if self.router:
            yield await self.router.route(request)
        if self.worker:
            async for response in self.worker.generate(request):
                yield response["text"]
"""

ROUTED = """
from components import Processor, Router

Processor.link(Router)
"""

DIRECT = """
from components import Processor, VllmWorker

Processor.link(VllmWorker)
"""


@pytest.fixture
async def project(tmp_path: Path) -> AsyncIterator[Project]:
    async with Project(tmp_path) as project:
        project.write(components=COMPONENTS, routed=ROUTED, direct=DIRECT)
        yield project


async def test_every_declared_edge_is_followed_where_nothing_is_linked(project: Project) -> None:
    serving = await project.serve("components:Processor")
    await serving.line(r"^ready in .*: Processor, VllmWorker, Router$")
    assert await project.call("dynamo.Processor.process", {"text": "a"}) == ["worker for a", "A"]


async def test_linking_the_router_removes_the_worker_and_starts_only_the_router(project: Project) -> None:
    serving = await project.serve("routed:Processor")
    await serving.line(r"^ready in .*: Processor, Router$")
    assert await project.call("dynamo.Processor.process", {"text": "a"}) == ["worker for a"]


async def test_linking_the_worker_removes_the_router_of_the_same_component(project: Project) -> None:
    serving = await project.serve("direct:Processor")
    await serving.line(r"^ready in .*: Processor, VllmWorker$")
    assert await project.call("dynamo.Processor.process", {"text": "a"}) == ["A"]

"""The documented services, run as they are written: a service, its dependency, its hooks, its low-level client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.sdk.project import GPUS, Project

REQUESTS = """
from pydantic import BaseModel

class ChatMessage(BaseModel):
    role: str
    content: str

class ChatCompletionRequest(BaseModel):
    messages: list[ChatMessage]
    model: str
    temperature: float = 1.0

class Preprocessed(BaseModel):
    prompt: str
    temperature: float
"""

ENGINE = """
import asyncio

async def initialize_model_engine(model_name):
    await asyncio.sleep(0)
    return Engine(model_name)

class Engine:
    def __init__(self, model_name):
        self.model_name = model_name

    async def generate(self, processed_request):
        await asyncio.sleep(0)
        return {"model": self.model_name, "text": processed_request["prompt"].upper()}

    async def shutdown(self):
        await asyncio.sleep(0)
        print("the engine lets go of its memory")
"""

SERVICE_B = """
from dynamo.sdk import dynamo_endpoint, service
from requests_of_chat import ChatCompletionRequest

@service(dynamo={"enabled": True, "namespace": "dynamo"})
class ServiceB:
    @dynamo_endpoint()
    async def preprocess(self, request: ChatCompletionRequest):
        assert isinstance(request, ChatCompletionRequest)
        return {"prompt": " ".join(f"{m.role}: {m.content}" for m in request.messages)}
"""

SERVICE_A = """
from dynamo.sdk import async_on_shutdown, async_on_start, depends, dynamo_endpoint, service
from engine import initialize_model_engine
from requests_of_chat import ChatCompletionRequest
from service_b import ServiceB

@service(dynamo={"enabled": True, "namespace": "dynamo"}, resources={"gpu": 1})
class ServiceA:
    # Define service dependencies
    service_b = depends(ServiceB)

    def __init__(self, model_name="meta-llama/Llama-3.1-8B-Instruct"):
        self.model_name = model_name
        self.engine = None

    @async_on_start
    async def async_init(self):
        # Initialize resources that require async operations
        self.engine = await initialize_model_engine(self.model_name)
        print(f"ServiceA initialized with model: {self.model_name}")

    @async_on_shutdown
    async def async_shutdown(self):
        # Clean up resources
        if self.engine:
            await self.engine.shutdown()
            print("ServiceA engine shut down")

    @dynamo_endpoint()
    async def generate(self, request: ChatCompletionRequest):
        # Call dependent service
        processed_request = await self.service_b.preprocess(request)

        # Use the engine to generate a response
        response = await self.engine.generate(processed_request)
        return response
"""

CHAT = {"model": "any", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
async def project(tmp_path: Path) -> AsyncIterator[Project]:
    async with Project(tmp_path) as project:
        project.write(requests_of_chat=REQUESTS, engine=ENGINE, service_b=SERVICE_B, service_a=SERVICE_A)
        yield project


async def test_the_documented_service_starts_its_engine_asks_its_dependency_and_answers(project: Project) -> None:
    serving = await project.serve("service_a:ServiceA", **GPUS)
    await serving.line("ServiceA initialized with model: meta-llama/Llama-3.1-8B-Instruct")
    answer = {"model": "meta-llama/Llama-3.1-8B-Instruct", "text": "USER: HELLO"}
    assert await project.call("dynamo.ServiceA.generate", CHAT) == [answer]


async def test_the_service_that_it_depends_on_is_deployed_with_it(project: Project) -> None:
    serving = await project.serve("service_a:ServiceA", **GPUS)
    await serving.line(r"^ready in .*: ServiceA, ServiceB$")
    assert await project.call("dynamo.ServiceB.preprocess", CHAT) == [{"prompt": "user: hello"}]


async def test_the_engine_is_shut_down_once_when_the_documented_service_ends(project: Project) -> None:
    serving = await project.serve("service_a:ServiceA", **GPUS)
    serving.interrupt()
    assert await serving.exit_status() == 0
    said = [line for line in serving.out if "the engine lets go" in line or "engine shut down" in line]
    assert len(said) == 2
    assert said[1].endswith("ServiceA engine shut down")


async def test_the_model_of_the_documented_service_can_be_configured(project: Project) -> None:
    serving = await project.serve("service_a:ServiceA", "--ServiceA.model_name=tiny", **GPUS)
    await serving.line("ServiceA initialized with model: tiny")


async def test_a_request_that_does_not_fit_is_refused_before_the_documented_service_sees_it(project: Project) -> None:
    await project.serve("service_a:ServiceA", **GPUS)
    with pytest.raises(Exception, match=r"Invalid request: 1 validation error for ChatCompletionRequest"):
        await project.call("dynamo.ServiceA.generate", {"messages": []})


TYPED = """
from dynamo.sdk import depends, dynamo_endpoint, service
from requests_of_chat import ChatCompletionRequest, Preprocessed

@service(dynamo={"namespace": "dynamo"})
class ServiceB:
    @dynamo_endpoint()
    async def preprocess(self, request: ChatCompletionRequest) -> Preprocessed:
        return Preprocessed(prompt=request.messages[0].content, temperature=request.temperature)

@service(dynamo={"namespace": "dynamo"})
class ServiceA:
    service_b = depends(ServiceB)

    @dynamo_endpoint()
    async def generate(self, request: ChatCompletionRequest) -> str:
        processed_request = await self.service_b.preprocess(request)
        return f"{type(processed_request).__name__} {processed_request.prompt} {processed_request.temperature}"
"""


async def test_an_answer_has_the_type_that_the_called_endpoint_declares(project: Project) -> None:
    project.write(typed=TYPED)
    await project.serve("typed:ServiceA")
    assert await project.call("dynamo.ServiceA.generate", CHAT) == ["Preprocessed hello 1.0"]


VLLM_WORKER = """
from dynamo.sdk import dynamo_endpoint, service

@service(dynamo={"namespace": "dynamo"}, resources={"gpu": 1})
class VllmWorker:
    @dynamo_endpoint()
    async def generate(self, request: dict):
        for token in request["prompt"].split():
            yield {"token": token}
"""

PROCESSOR = """
from dynamo.sdk import async_on_start, dynamo_context, dynamo_endpoint, service
from vllm_worker import VllmWorker

@service(dynamo={"namespace": "dynamo"})
class Processor:
    @async_on_start
    async def async_init(self):
        runtime = dynamo_context["runtime"]
        comp_ns, comp_name = VllmWorker.dynamo_address() # dynamo://{namespace}/{name}
        print(f"[Processor] comp_ns: {comp_ns}, comp_name: {comp_name}")
        self.worker_client = (
            await runtime.namespace(comp_ns)
            .component(comp_name)
            .endpoint("generate")
            .client()
        )

    @dynamo_endpoint()
    async def process(self, request: dict):
        async for response in await self.worker_client.generate({"prompt": request["text"]}):
            yield response.data()["token"]
"""


async def test_a_service_makes_a_client_of_another_one_that_it_does_not_depend_on(project: Project) -> None:
    project.write(vllm_worker=VLLM_WORKER, processor=PROCESSOR)
    await project.serve("vllm_worker:VllmWorker", **GPUS)
    processor = await project.serve("processor:Processor")
    await processor.line(r"^ready in .*: Processor$")
    await processor.line(r"\[Processor\] comp_ns: dynamo, comp_name: VllmWorker")
    assert await project.call("dynamo.Processor.process", {"text": "one two"}) == ["one", "two"]


async def test_a_moved_service_is_found_where_it_was_moved_to(project: Project) -> None:
    project.write(vllm_worker=VLLM_WORKER, processor=PROCESSOR)
    move = "--VllmWorker.ServiceArgs.dynamo.namespace=staging"
    await project.serve("vllm_worker:VllmWorker", move, **GPUS)
    processor = await project.serve("processor:Processor", move)
    await processor.line(r"\[Processor\] comp_ns: staging, comp_name: VllmWorker")
    assert await project.call("dynamo.Processor.process", {"text": "one two"}) == ["one", "two"]


BENEATH = """
import asyncio
from dynamo.runtime import DistributedRuntime, dynamo_worker

@dynamo_worker()
async def main(runtime: DistributedRuntime):
    service_b = await runtime.namespace("dynamo").component("ServiceB").endpoint("preprocess").client()
    async for response in await service_b.generate({"model": "any", "messages": [{"role": "user", "content": "a"}]}):
        print(response.data())

asyncio.run(main())
"""


async def test_what_a_dependency_is_beneath_can_be_written_by_hand(project: Project) -> None:
    project.write(by_hand=BENEATH)
    await project.serve("service_b:ServiceB")
    assert await project.python("by_hand.py") == "{'prompt': 'user: a'}\n"


RESOURCES = """
import contextlib
from dynamo.sdk import async_on_shutdown, async_on_start, dynamo_endpoint, service

async def connect_to_db():
    return "a connection"

async def load_tokenizer():
    return str.split

@contextlib.asynccontextmanager
async def initialize_engine(model):
    print(f"engine of {model} starts")
    yield str.upper
    print(f"engine of {model} ends")

@service
class VllmWorkerRouterLess:
    _engine_context = None

    def __init__(self, model="tiny"):
        self.model = model

    @async_on_start
    async def async_init(self):
        # Perfect for operations that need to be awaited
        self.db = await connect_to_db()
        self.tokenizer = await load_tokenizer()
        self._engine_context = initialize_engine(self.model)
        self.engine = await self._engine_context.__aenter__()

    @async_on_shutdown
    async def async_shutdown(self):
        if self._engine_context is not None:
            await self._engine_context.__aexit__(None, None, None)
        print("VllmWorkerRouterLess shutting down")

    @dynamo_endpoint()
    async def generate(self, request: str):
        for token in self.tokenizer(request):
            yield self.engine(token)
"""


async def test_what_a_startup_hook_opens_serves_requests_and_is_closed_at_the_end(project: Project) -> None:
    project.write(resources=RESOURCES)
    serving = await project.serve("resources")
    assert await project.call("default.VllmWorkerRouterLess.generate", "a b") == ["A", "B"]
    serving.interrupt()
    assert await serving.exit_status() == 0
    said = [line for line in serving.out if "engine of" in line or "shutting down" in line]
    assert [line.rpartition("] ")[2] for line in said] == [
        "engine of tiny starts",
        "engine of tiny ends",
        "VllmWorkerRouterLess shutting down",
    ]

"""Mistakes that a type checker must find: each is marked for both of them, and a mark without its mistake is an error.

`type: ignore` is mypy's mark and `pyright: ignore` the other's. Nothing of this is ever run.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from pydantic import BaseModel

from dynamo._internal import ModelRuntimeConfig
from dynamo.llm import (
    EngineType,
    EntrypointArgs,
    KvPublisher,
    KvRouter,
    KvRouterConfig,
    KvStats,
    ModelConfig,
    ModelInput,
    ModelType,
    RouterConfig,
    RouterMode,
    WorkerMetricsPublisher,
    WorkerStats,
    compute_block_hash_for_seq,
    register_llm,
)
from dynamo.metrics import Metrics, counter, gauge, histogram
from dynamo.runtime import Client, DistributedRuntime, Endpoint, dynamo_worker
from dynamo.sdk import async_on_start, depends, dynamo_context, dynamo_endpoint, service
from dynamo.sdk.lib.config import ServiceConfig


class Request(BaseModel):
    text: str


@service(dynamo={"namespace": "typing"})
class Worker:
    @dynamo_endpoint()
    async def generate(self, request: Request) -> AsyncIterator[str]:
        yield request.text

    @dynamo_endpoint()
    async def length(self, request: Request) -> int:
        return len(request.text)


@service(dynamo={"namespace": "typing"})
class Caller:
    worker = depends(Worker)

    @dynamo_endpoint()
    async def ask(self, request: Request) -> int:
        await self.worker.lenght(request)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
        await self.worker.length("text")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        await self.worker.length(request, 1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        await self.worker.generate(request)  # type: ignore[misc]  # pyright: ignore[reportGeneralTypeIssues]
        text: str = await self.worker.length(request)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
        return len(text)

    @async_on_start
    async def start(self) -> None:
        dynamo_context["runtme"]  # type: ignore[typeddict-item]  # pyright: ignore[reportGeneralTypeIssues]
        number: int = dynamo_context["service_name"]  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
        dynamo_context["worker_id"] = number + "1"  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue]


def decorators() -> None:
    service(workers="many")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    service(resources={"gpus": 1})  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    service(worker=1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    depends("Worker")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    dynamo_endpoint(name=5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    async_on_start(5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    ServiceConfig.get_instance().require("Worker")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


@dynamo_worker()
async def works(runtime: DistributedRuntime, name: str) -> int:
    return len(name)


async def workers_and_clients(runtime: DistributedRuntime, endpoint: Endpoint, client: Client) -> None:
    await works(runtime, "name")  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue]
    await works(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    text: str = await works("name")  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    runtime.endpoint(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    runtime.namespace(text).componet("words")  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    DistributedRuntime(discvery="memory:")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await client.direct({"prompt": "x"}, "1")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    await client.wait_for_instances(count="1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    async for item in await client.generate("x"):
        item.upper()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    async for item in client.generate("x"):  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues, reportUnknownVariableType]
        pass
    await endpoint.serve(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await endpoint.serve_endpoint(count, "yes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def count(request: str) -> AsyncIterator[int]:
    yield len(request)


async def registration(endpoint: Endpoint) -> None:
    await register_llm(endpoint)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await register_llm(endpoint, "/models/llama")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    await register_llm("a.b.c", ModelConfig(path="/m"))  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    await register_llm(ModelType.Chat, ModelInput.Text, endpoint, "/m")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    await register_llm(ModelInput.Text, ModelType.Chat, endpoint, 5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    ModelConfig()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    ModelConfig(path="/m", context_lenght=4096)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    ModelConfig(path="/m", context_length="long")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ModelConfig(path="/m", on_conflict="win")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ModelRuntimeConfig(total_blocks=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    ModelType.Chat | "completions"  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue, reportUnusedExpression]
    ModelInput.Tensr  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


async def routing(endpoint: Endpoint, token_ids: list[int]) -> None:
    KvRouter("a.b.c", 16)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    KvRouter(endpoint, "16")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    KvRouter(endpoint, 16, RouterConfig(RouterMode.KV))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    KvRouter(endpoint, 16, overlap_score_credit=1.0)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    KvRouterConfig(router_temprature=0.5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    KvRouterConfig(use_kv_events="no")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    RouterConfig(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    KvPublisher(endpoint, block_size=16)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    KvPublisher(endpoint, kv_block_size=16).publish_stored("tokens", [16], [1])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    compute_block_hash_for_seq("tokens", 16)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WorkerMetricsPublisher().publish(dp_rank="0")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    WorkerStats(request_active_slots=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    WorkerStats(1, 64, waiting=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    KvStats("1", 64)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def metrics() -> None:
    counter("name")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    counter("name", "What it counts", [1])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    counter("name", "What it counts").dec()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
    counter("name", "What it counts").inc("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    gauge("name", "What it is", function=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    histogram("name", "How long", buckets=["1"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    Metrics.summary("name", "There is none")  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


def entrypoints() -> None:
    EntrypointArgs("dynamic")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    EntrypointArgs(EngineType.Echo, http_prt=8080)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    EngineType.Vllm  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


def names() -> None:
    from dynamo._internal import Drawer  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType, reportUnusedImport]
    from dynamo.echo import Echo  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType, reportUnusedImport]
    from dynamo.entrypoint import Entry  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType, reportUnusedImport]
    from dynamo.frontend import Server  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType, reportUnusedImport]
    from dynamo.llm import KvRooter  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType, reportUnusedImport]
    from dynamo.metrics import Summary  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType, reportUnusedImport]
    from dynamo.mocker import Mocker  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType, reportUnusedImport]
    from dynamo.runtime import Runtime  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType, reportUnusedImport]
    from dynamo.sdk import deps  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType, reportUnusedImport]
    from dynamo.transformers import Engine  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType, reportUnusedImport]
    from dynamo.vllm import Llm  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType, reportUnusedImport]

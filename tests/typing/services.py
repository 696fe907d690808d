"""A graph of services, as the documentation of the SDK writes them: it must import, and type-check strictly."""

from __future__ import annotations

import argparse
import logging
from collections.abc import AsyncIterator

from pydantic import BaseModel

from dynamo.runtime import Client, DistributedRuntime, dynamo_worker
from dynamo.sdk import (
    AbstractService,
    DynamoTransport,
    abstract_endpoint,
    api,
    async_on_shutdown,
    async_on_start,
    depends,
    dynamo_context,
    dynamo_endpoint,
    endpoint,
    liveness,
    readiness,
    service,
    service_of,
)
from dynamo.sdk.lib.config import ServiceConfig

logger = logging.getLogger(__name__)


class RequestType(BaseModel):
    text: str


class ResponseType(BaseModel):
    text: str


@service(
    dynamo={"enabled": True, "namespace": "typing"}, resources={"gpu": 2, "cpu": "10", "memory": "20Gi"}, workers=1
)
class ServiceB:
    def __init__(self, model_name: str = "meta-llama/Llama-3.1-8B-Instruct", temperature: float = 0.7) -> None:
        self.model_name = model_name
        self.temperature = temperature

    @dynamo_endpoint()
    async def preprocess(self, request: RequestType) -> RequestType:
        return RequestType(text=request.text.strip())

    @dynamo_endpoint(name="words")
    async def generate(self, request: RequestType) -> AsyncIterator[str]:
        """Generate tokens and stream them back"""
        logger.info(f"Worker endpoint received: {request.text}")
        for token in request.text.split():
            yield ResponseType(text=token).model_dump_json()


class Chooser(AbstractService):
    @abstract_endpoint
    async def choose(self, request: RequestType) -> int:
        raise NotImplementedError


@service(dynamo={"namespace": "typing"})
class First(Chooser):
    @dynamo_endpoint
    async def choose(self, request: RequestType) -> int:
        return 0


@service(dynamo={"namespace": "typing"}, resources={"gpu": 1}, traffic={"timeout": 30})
class ServiceA:
    service_b = depends(ServiceB)
    chooser = depends(Chooser)

    def __init__(self) -> None:
        config = ServiceConfig.get_instance()
        self.name = config.get("ServiceA", {}).get("model_name", "gpt-2")
        self.key = config.require("ServiceA", "api_key")
        self.client: Client | None = None

    @async_on_start
    async def async_init(self) -> None:
        runtime = dynamo_context["runtime"]
        namespace, component = service_of(ServiceB).dynamo_address()
        self.client = await runtime.namespace(namespace).component(component).endpoint("words").client()
        await dynamo_context["component"].create_service()

    @async_on_shutdown
    async def async_shutdown(self) -> None:
        if self.client is not None:
            await self.client.close()

    @readiness
    def is_ready(self) -> bool:
        return self.client is not None

    @liveness
    async def is_alive(self) -> bool:
        return True

    @dynamo_endpoint()
    async def generate(self, request: RequestType) -> ResponseType:
        processed: RequestType = await self.service_b.preprocess(request)
        chosen: int = await self.chooser.choose(processed)
        async for word in self.service_b.generate(processed):
            return ResponseType(text=word.upper() * chosen)
        return ResponseType(text="")

    @api
    async def ask(self, request: RequestType) -> ResponseType:
        return await self.generate(request)

    @endpoint(transports=[DynamoTransport.HTTP], http_method="GET")
    def health(self) -> dict[str, bool]:
        return {"ok": True}


def link() -> None:
    linked = service_of(ServiceA).link(First)
    print(linked.inner().choose, service_of(ServiceA).edges(), linked.name)


def parse_args(service_name: str, prefix: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--router", choices=["random", "round-robin", "kv"], default="random")
    return parser.parse_args(ServiceConfig.get_instance().as_args(service_name, prefix=prefix))


@dynamo_worker()
async def client_worker(runtime: DistributedRuntime) -> None:
    client = await runtime.namespace("typing").component("ServiceB").endpoint("words").client()
    responses = await client.generate(RequestType(text="Hello, Dynamo!").model_dump_json())
    async for response in responses:
        print(response.data())

"""What people rely on who bring scripts and services that they wrote for earlier releases."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from pydantic import BaseModel
from tests.cli.serving import DEADLINE_S
from tests.sdk.project import Project

from dynamo.runtime import Client, CustomLease, DistributedRuntime, dynamo_endpoint
from dynamo.sdk.lib.config import ServiceConfig


@pytest.fixture
async def project(tmp_path: Path) -> AsyncIterator[Project]:
    async with Project(tmp_path) as project:
        yield project


SERVER = """
import asyncio
from pydantic import BaseModel
from dynamo.runtime import DistributedRuntime, dynamo_endpoint, dynamo_worker

class Request(BaseModel):
    text: str

class Reply(BaseModel):
    word: str

class Handler:
    @dynamo_endpoint(Request, Reply)
    async def generate(self, request):
        for word in request.text.split():
            yield Reply(word=word).model_dump_json() if word == "text" else {"word": word}

@dynamo_worker(static=False)
async def worker(runtime: DistributedRuntime):
    component = runtime.namespace("older").component("Worker")
    await component.create_service()
    endpoint = component.endpoint("generate")
    assert isinstance(endpoint.lease_id(), int)
    assert not runtime.primary_token().is_cancelled()
    assert runtime.event_loop() is asyncio.get_running_loop()
    print("serving", flush=True)
    await endpoint.serve_endpoint(Handler().generate, None)
    print("shut down", flush=True)
    return "dropped"

asyncio.run(worker())
"""

CLIENT = """
import asyncio
from dynamo.runtime import DistributedRuntime, dynamo_worker

@dynamo_worker()
async def client(runtime: DistributedRuntime, text: str):
    client = await runtime.namespace("older").component("Worker").endpoint("generate").client()
    await client.wait_for_endpoints()
    [one] = client.endpoint_ids()
    assert type(one) is int
    request = '{"text": "' + text + '"}'
    for stream in (
        await client.generate(request),
        await client.random(request),
        await client.round_robin(request),
        await client.static(request),
        await client.direct(request, one),
    ):
        print([(item.data(), item.event(), item.comments(), item.id(), item.is_error()) async for item in stream])
    print([item async for item in await client.generate({"text": text}, annotated=False)])

asyncio.run(client("some text"))
"""

#: Older names work, and say what they are called today.
WITHOUT_ADVICE = ("-W", "ignore::DeprecationWarning")


async def test_a_worker_and_a_client_without_the_sdk_run_as_they_were_written(project: Project) -> None:
    project.write(server=SERVER, client=CLIENT)
    server = await project.spawn("server.py")
    await server.line("^serving$")
    items: list[object] = [({"word": "some"}, None, [], None, False), ('{"word":"text"}', None, [], None, False)]
    plain = [{"word": "some"}, '{"word":"text"}']
    assert (await project.python(*WITHOUT_ADVICE, "client.py")).splitlines() == [*[str(items)] * 5, str(plain)]
    server.process.terminate()
    assert await server.exit_status() == 0
    assert server.out == ["serving", "shut down"]
    assert server.err == []


async def test_a_client_script_ends_well_every_time(project: Project) -> None:
    project.write(server=SERVER, client=CLIENT)
    server = await project.spawn("server.py")
    await server.line("^serving$")
    outputs = await asyncio.gather(*(project.python(*WITHOUT_ADVICE, "client.py") for _ in range(4)))
    assert len(set(outputs)) == 1


async def test_tokens_of_a_runtime_end_work_of_ones_own() -> None:
    async with DistributedRuntime(discovery="memory:", request_plane="inproc:") as runtime:
        child = runtime.child_token()
        child.cancel()
        await child.cancelled()
        assert not runtime.primary_token().is_cancelled()
        other = runtime.child_token()
        runtime.shutdown()
        await asyncio.wait_for(other.cancelled(), 60)
        await asyncio.wait_for(runtime.primary_token().cancelled(), 60)


class Request(BaseModel):
    text: str


class Reply(BaseModel):
    word: str


async def test_a_lease_of_ones_own_has_its_methods() -> None:
    async with DistributedRuntime(discovery="memory:", request_plane="inproc:") as runtime:
        component = runtime.namespace("older").component("Worker")
        lease = await component.create_service_with_custom_lease(ttl=1)
        assert isinstance(lease, CustomLease)
        assert isinstance(lease.id(), int)
        assert await lease.is_valid()
        lease.revoke()
        assert not await lease.is_valid()


async def test_a_client_that_nobody_answers_names_the_endpoint_and_can_be_made_before_it() -> None:
    async with DistributedRuntime(discovery="memory:", request_plane="inproc:") as runtime:
        endpoint = runtime.namespace("older").component("Late").endpoint("generate")
        client = await endpoint.client()
        assert isinstance(client, Client)
        with pytest.raises(Exception, match="older/Late/generate"):
            await client.generate("")

        @dynamo_endpoint(Request, Reply)
        async def handler(request: Request) -> AsyncIterator[object]:
            yield {"word": request.text}

        serving = asyncio.create_task(endpoint.serve_endpoint(handler))
        await client.wait_for_instances(1, timeout_s=60)
        assert await (await client.generate({"text": "a"}, annotated=False)).batch() == [{"word": "a"}]
        with pytest.raises(Exception, match="Invalid request: 5"):
            await (await client.generate(5)).batch()
        runtime.shutdown()
        await asyncio.wait_for(serving, 60)


# Arguments for the parsers of other libraries.


def parse_llm_args(service_name: str, prefix: str) -> argparse.Namespace:
    """As the components of the published examples do it."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--router", choices=["random", "round-robin", "kv", "kv-load"], default="random")
    parser.add_argument("--router-num-threads", type=int, default=4)
    parser.add_argument("--remote-prefill", action="store_true")
    parser.add_argument("--conditional-disagg", action="store_true")
    parser.add_argument("--max-local-prefill-length", type=int, default=1000)
    parser.add_argument("--max-prefill-queue-size", type=int, default=3)
    parser.add_argument("--kv-transfer-config", type=json.loads)
    parser.add_argument("--block-size", type=int)
    return parser.parse_args(ServiceConfig.get_instance().as_args(service_name, prefix=prefix))


def test_the_arguments_of_the_published_examples_are_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    config = {
        "Common": {"block-size": 64, "vllm_block-size": 16, "unused": 1},
        "VllmWorker": {
            "remote-prefill": True,
            "conditional-disagg": False,
            "max-local-prefill-length": 10,
            "kv-transfer-config": {"kv_connector": "DynamoNixlConnector"},
            "ServiceArgs": {"workers": 1},
            "common-configs": ["block-size"],
        },
        "Prefixed": {
            "vllm_router": "kv",
            "vllm_remote-prefill": True,
            "other": "x",
            "common-configs": ["vllm_block-size", "block-size"],
        },
    }
    monkeypatch.setenv("DYNAMO_SERVICE_CONFIG", json.dumps(config))
    whole = parse_llm_args("VllmWorker", "")
    assert (whole.block_size, whole.remote_prefill, whole.conditional_disagg) == (64, True, False)
    assert (whole.max_local_prefill_length, whole.kv_transfer_config) == (10, {"kv_connector": "DynamoNixlConnector"})
    prefixed = parse_llm_args("Prefixed", "vllm_")
    assert (prefixed.router, prefixed.remote_prefill, prefixed.block_size) == ("kv", True, 16)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("dynamo.runtime.logging", "configure_dynamo_logging"),
        ("dynamo.sdk.core.protocol.interface", "DynamoTransport"),
        ("dynamo.sdk.lib.decorators", "async_on_start"),
        ("dynamo.sdk.lib.service", "ComponentType"),
    ],
)
def test_a_name_that_published_services_import_is_there(module: str, name: str) -> None:
    assert hasattr(importlib.import_module(module), name)


SETS_HANDLERS = """
import asyncio, signal, sys
from fastapi.responses import StreamingResponse
from dynamo.sdk import api, async_on_shutdown, service

@service
class Frontend:
    def __init__(self):
        signal.signal(signal.SIGTERM, self.handle_exit)
        signal.signal(signal.SIGINT, self.handle_exit)

    def handle_exit(self, signum, frame):
        sys.exit(0)

    @async_on_shutdown
    async def end(self):
        print("hook", flush=True)

    @api
    async def generate(self):
        async def items():
            for number in range(5):
                yield str(number)
                await asyncio.sleep(0.1)
        return StreamingResponse(items())
"""


async def test_a_service_that_sets_signal_handlers_still_lets_its_streams_end(project: Project) -> None:
    project.write(handlers=SETS_HANDLERS)
    serving = await project.start("handlers", "--port", "0")
    url = await serving.ready()
    async with httpx.AsyncClient(timeout=DEADLINE_S) as client, client.stream("POST", f"{url}/generate") as response:
        chunks = response.aiter_text()
        assert await anext(chunks) == "0"
        serving.interrupt()
        assert "".join([chunk async for chunk in chunks]) == "1234"
    assert await serving.exit_status() == 0
    assert serving.out.count("[Frontend:1] hook") == 1
    assert "Traceback" not in serving.text


READS_A_VARIABLE = """
import os
from dynamo.sdk import dynamo_endpoint, service

@service
class Needs:
    def __init__(self):
        self.token = os.environ["MY_TOKEN"]

    @dynamo_endpoint()
    async def generate(self, request):
        yield request
"""


async def test_a_variable_that_is_missing_is_named_with_the_ways_to_set_it(project: Project) -> None:
    project.write(needs=READS_A_VARIABLE)
    serving = await project.start("needs:Needs")
    assert await serving.exit_status() == 1
    [line] = serving.err
    assert "KeyError: 'MY_TOKEN' is not set in the environment; set it, or" in line
    assert "ServiceArgs.envs (needs.py:8 in __init__)" in line

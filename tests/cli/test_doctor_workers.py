"""`dynamo doctor` on workers and their models: who cannot be called, and who differs from the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.doctoring import doctor, lines_of, only, put, serve_nothing, worker
from tests.cli.other_servers import silent_port

from dynamo._core.address import EndpointId
from dynamo._core.request_plane.tcp import TcpPlane
from dynamo.llm._registration import Kind, Registration
from dynamo.llm._workers import ROUTES_TO
from dynamo.runtime import DistributedRuntime, Endpoint

TOKEN = "a token of the cluster that is long enough"


async def test_workers_that_agree_and_answer_are_well(tmp_path: Path, tiny_model: Path) -> None:
    async with worker(tmp_path, tiny_model), worker(tmp_path, tiny_model):
        result = await doctor(tmp_path, *only("planes", "workers"))
    assert result.exit_code == 0
    assert "processes that answer: 2 of 2; endpoints: 1" in result.stdout
    assert "workers: 2, with blocks of 16 tokens; 0 of them have told of KV blocks" in result.stdout


async def test_a_worker_with_another_block_size_than_the_others_is_named_with_both(
    tmp_path: Path, tiny_model: Path
) -> None:
    async with (
        worker(tmp_path, tiny_model),
        worker(tmp_path, tiny_model, kv_cache_block_size=32) as other,
        worker(tmp_path, tiny_model),
    ):
        result = await doctor(tmp_path, *only("workers"))
    assert result.exit_code == 1
    [line] = lines_of(result, "fail")
    assert line.startswith(
        f"model m  ns/worker/generate/{other.lease_id():x}: its KV cache block size is 32, and that of "
    )
    assert " is 16. Start all workers of a model alike" in line


async def test_one_model_at_two_endpoints_is_for_two_frontends(tmp_path: Path, tiny_model: Path) -> None:
    async with worker(tmp_path, tiny_model), worker(tmp_path, tiny_model, at="other.worker.generate"):
        result = await doctor(tmp_path, *only("workers"))
    [line] = lines_of(result, "warn")
    assert "its workers have several endpoints: ns/worker/generate, other/worker/generate" in line


async def test_a_router_of_its_own_before_the_workers_is_well(tmp_path: Path, tiny_model: Path) -> None:
    card = {"runtime_config": {ROUTES_TO: "ns/worker/generate"}}
    async with (
        worker(tmp_path, tiny_model),
        worker(tmp_path, tiny_model),
        worker(tmp_path, tiny_model, at="routed.router.generate", **card),
    ):
        result = await doctor(tmp_path, *only("workers"))
    assert result.exit_code == 0
    assert "workers: 2, with blocks of 16 tokens; 0 of them have told of KV blocks; routers before them: 1" in (
        result.stdout
    )


async def test_a_router_before_workers_that_are_not_there_is_named(tmp_path: Path, tiny_model: Path) -> None:
    card = {"runtime_config": {ROUTES_TO: "ns/gone/generate"}}
    async with worker(tmp_path, tiny_model), worker(tmp_path, tiny_model, at="routed.router.generate", **card) as own:
        result = await doctor(tmp_path, *only("workers"))
    [line] = lines_of(result, "warn")
    router = f"routed/router/generate/{own.lease_id():x}"
    assert f"the router {router} sends its requests to ns/gone/generate, where no worker has registered it" in line


async def test_workers_with_other_tokenizers_are_named_with_both(
    tmp_path: Path, tiny_model: Path, copied: Path
) -> None:
    tokenizer = copied / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + " ")
    async with worker(tmp_path / "d", tiny_model), worker(tmp_path / "d", copied):
        result = await doctor(tmp_path / "d", *only("workers"))
    [line] = lines_of(result, "fail")
    assert "its checksum of tokenizer.json is " in line


@pytest.fixture
def copied(tmp_path: Path, tiny_model: Path) -> Path:
    """A copy of the model."""
    copy = tmp_path / "model"
    copy.mkdir()
    for file in tiny_model.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


async def test_a_worker_that_cannot_be_called_is_named(tmp_path: Path, tiny_model: Path) -> None:
    await put_instance(tmp_path, "tcp://127.0.0.1:1/1?v=1")
    async with worker(tmp_path, tiny_model):
        result = await doctor(tmp_path, *only("workers"))
    assert result.exit_code == 1
    [line] = lines_of(result, "fail")
    assert "ns/gone/generate/1a cannot be called" in line
    assert "processes that answer: 1 of 2; endpoints: 2" in result.stdout


async def test_a_worker_that_is_stuck_is_not_waited_for(tmp_path: Path) -> None:
    with silent_port() as port:
        await put_instance(tmp_path, f"tcp://127.0.0.1:{port}/1?v=1")
        result = await doctor(tmp_path, *only("workers"))
    [line] = lines_of(result, "fail")
    assert "ns/gone/generate/1a cannot be called" in line


async def put_instance(discovery: Path, address: str) -> None:
    """Have an instance be registered that listens there."""
    at, id = EndpointId("ns", "gone", "generate"), 26
    record = {"namespace": at.namespace, "component": at.component, "endpoint": at.endpoint, "instance_id": id}
    await put(discovery, at.instance_key(id), json.dumps(record | {"transport": {"tcp": address}}).encode())


async def test_an_address_that_is_none_is_told(tmp_path: Path) -> None:
    await put_instance(tmp_path, "udp://127.0.0.1:1")
    result = await doctor(tmp_path, *only("workers"))
    [line] = lines_of(result, "fail")
    assert "'udp://127.0.0.1:1' is not an address of the request plane" in line


async def test_a_worker_with_another_token_refuses_us(tmp_path: Path) -> None:
    plane = TcpPlane.from_url("tcp:", {"DYN_CLUSTER_TOKEN": TOKEN})
    runtime = DistributedRuntime(discovery=f"file://{tmp_path}", request_plane=plane, event_plane="inproc:")
    async with runtime:
        await runtime.endpoint("ns.worker.generate").serve(serve_nothing)
        without = await doctor(tmp_path, *only("workers"))
        with_it = await doctor(tmp_path, *only("workers"), DYN_CLUSTER_TOKEN=TOKEN)
    await plane.close()
    [line] = lines_of(without, "fail")
    assert "the same token" in line
    assert with_it.exit_code == 0


async def test_a_model_that_nobody_serves_is_named(tmp_path: Path, tiny_model: Path) -> None:
    registration = Registration("text", Kind.Chat, EndpointId("ns", "nobody", "chat"))
    await put(tmp_path, registration.key("public"), registration.to_json())
    async with worker(tmp_path, tiny_model) as endpoint:
        await put(tmp_path, endpoint.id.model_card_key(7), await card_of(endpoint))
        result = await doctor(tmp_path, *only("workers"))
    assert result.exit_code == 1
    of_card, of_registration = lines_of(result, "warn")
    assert "ns/worker/generate/7 registered it, and does not serve its endpoint" in of_card
    assert "chat model text is registered at ns/nobody/chat, which nobody serves" in of_registration
    assert "llmctl http remove chat text" in of_registration


async def card_of(endpoint: Endpoint) -> bytes:
    key = endpoint.id.model_card_key(endpoint.lease_id())
    return (await endpoint.runtime.discovery.get_prefix(key))[key]

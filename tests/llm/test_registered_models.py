"""Models that a person registered come and go with their registrations and with who serves the endpoint."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from tests.llm.scene import BOTH, MODEL, ScriptedEngine, World, load_tokenizer, says_text, until

from dynamo._core.address import EndpointId, registration_key
from dynamo._core.context import Context
from dynamo._core.errors import CannotConnect, DynamoError, InvalidArgument, NoInstances, NotFound, ProtocolError
from dynamo.llm._models import ModelManager
from dynamo.llm._openai import ChatRequest, CompletionRequest, OpenAIRequest, parse
from dynamo.llm._registration import PUBLIC_NAMESPACE, Kind, Registration
from dynamo.runtime import DistributedRuntime
from dynamo.runtime._instances import InstanceRecord

CHAT = parse(ChatRequest, {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]})
COMPLETION = parse(CompletionRequest, {"model": MODEL, "prompt": "hi", "stream": True})
ENDPOINT = "app.Worker.chat"


class Worker:
    """Yields chunks that say what it is asked for, and keeps the bodies that it was sent."""

    def __init__(self, text: str = "Hello") -> None:
        self.text = text
        self.bodies: list[dict[str, object]] = []

    async def chat(self, body: dict[str, object]) -> AsyncIterator[object]:
        self.bodies.append(body)
        yield {"choices": [{"index": 0, "delta": {"role": "assistant", "content": self.text}, "finish_reason": None}]}
        yield {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}

    async def complete(self, body: dict[str, object]) -> AsyncIterator[object]:
        self.bodies.append(body)
        yield {"choices": [{"index": 0, "text": self.text, "finish_reason": "stop"}]}


@asynccontextmanager
async def worker(world: World, worker: Worker, endpoint: str = ENDPOINT) -> AsyncIterator[DistributedRuntime]:
    async with world.runtime() as runtime:
        handler = worker.complete if endpoint.endswith("complete") else worker.chat
        served = await runtime.endpoint(endpoint).serve(handler, drain_s=0.0)
        yield runtime
        await served.close()


@asynccontextmanager
async def following(world: World, namespace: str | None = None) -> AsyncIterator[ModelManager]:
    async with world.runtime() as runtime, ModelManager(runtime, namespace=namespace) as models:
        yield models


async def register(
    world: World, endpoint: str = ENDPOINT, kind: Kind = Kind.Chat, model: str = MODEL, at: str = PUBLIC_NAMESPACE
) -> str:
    registration = Registration(model, kind, EndpointId.parse(endpoint))
    await world.discovery.put(registration.key(at), registration.to_json())
    return registration.key(at)


def refusal(models: ModelManager, request: OpenAIRequest | None = None) -> DynamoError | None:
    try:
        models.pipeline(MODEL, request)
    except DynamoError as error:
        return error
    return None


async def content(models: ModelManager) -> object:
    answer = msgspec.json.decode(await models.pipeline(MODEL, CHAT).complete(CHAT, Context()))
    return answer["choices"][0]["message"]["content"]


async def test_a_registered_model_can_be_asked_while_it_is_registered_and_served() -> None:
    world = World()
    async with following(world) as models:
        assert isinstance(refusal(models), NotFound)
        key = await register(world)
        await until(lambda: isinstance(refusal(models), NoInstances))
        assert models.names() == []
        async with worker(world, Worker()) as runtime:
            await until(lambda: models.names() == [MODEL])
            await models.wait_ready()
            assert models.instances() == {MODEL: [f"app/Worker/chat/{runtime.lease.id:x}"]}
            assert models.created_s(MODEL) > 0
            assert await content(models) == "Hello"
        await until(lambda: models.names() == [])
        assert "app/Worker/chat, where the model 'tiny' is registered" in str(refusal(models, CHAT))
        await world.discovery.delete(key)
        await until(lambda: isinstance(refusal(models), NotFound))


async def test_a_worker_that_nobody_reaches_is_named_as_passed_over() -> None:
    world = World()
    await register(world)
    record = InstanceRecord("app", "Worker", "chat", 77, {"inproc": "inproc://nobody"})
    await world.discovery.put(EndpointId.parse(ENDPOINT).instance_key(77), msgspec.json.encode(record))
    async with following(world) as models:
        await until(lambda: models.names() == [MODEL])
        assert models.passed_over() == []
        with pytest.raises(CannotConnect):
            await content(models)
        assert models.passed_over() == ["app/Worker/chat/4d"]


async def test_the_worker_gets_the_request_as_it_was_sent_with_stream_set() -> None:
    world, at = World(), Worker()
    await register(world)
    async with worker(world, at), following(world) as models:
        await models.wait_ready()
        await content(models)
    assert at.bodies == [{"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "stream": True}]


async def test_one_name_may_be_answered_at_two_endpoints() -> None:
    world, chats, completes = World(), Worker("from chat"), Worker("from complete")
    await register(world)
    await register(world, "app.Other.complete", Kind.Completion)
    async with (
        worker(world, chats),
        worker(world, completes, "app.Other.complete"),
        following(world) as models,
    ):
        await until(lambda: len(models.instances().get(MODEL, [])) == 2)
        assert await content(models) == "from chat"
        async with aclosing(models.pipeline(MODEL, COMPLETION).stream(COMPLETION, Context())) as batches:
            chunks = [msgspec.json.decode(chunk) async for batch in batches for chunk in batch]
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["from complete"]


async def test_a_request_of_a_kind_that_is_not_registered_is_refused() -> None:
    world = World()
    await register(world)
    async with worker(world, Worker()), following(world) as models:
        await models.wait_ready()
        with pytest.raises(InvalidArgument, match="answers chat requests only"):
            models.pipeline(MODEL, COMPLETION)


async def test_a_registration_that_changes_leads_to_the_new_endpoint() -> None:
    world, old, new = World(), Worker("old"), Worker("new")
    await register(world)
    async with worker(world, old), worker(world, new, "app.New.chat"), following(world) as models:
        await models.wait_ready()
        assert await content(models) == "old"
        await register(world, "app.New.chat")
        await until(lambda: "app/New" in str(models.instances()))
        assert await content(models) == "new"


@pytest.mark.parametrize(("namespace", "seen"), [(None, "one"), ("public", "one"), ("staging", "two"), ("app", None)])
async def test_a_frontend_sees_what_is_registered_in_its_public_namespace(
    namespace: str | None, seen: str | None
) -> None:
    world = World()
    await register(world, model="one")
    await register(world, model="two", at="staging")
    await register(world, model="last", at=namespace or PUBLIC_NAMESPACE)
    async with worker(world, Worker()), following(world, namespace) as models:
        await until(lambda: "last" in models.names())
        assert models.names() == sorted(filter(None, ["last", seen]))


async def test_what_workers_say_themselves_counts_before_a_registration(
    tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    engine = ScriptedEngine(says_text(await load_tokenizer(tiny_model), "from the card"))
    async with worker(world, Worker("registered")), following(world) as models:
        key = await register(world)
        await until(lambda: models.names() == [MODEL])
        async with world.worker(engine, tiny_model, model_type=BOTH):
            await until(lambda: "test/worker" in str(models.instances()))
            assert "the registration of the model 'tiny' is not used" in caplog.text
            assert await content(models) == "from the card"
            caplog.clear()
            await world.discovery.delete(key)
            await register(world)
            await until(lambda: "is not used" in caplog.text)
        await until(lambda: "app/Worker" in str(models.instances()))
        assert await content(models) == "registered"


async def test_what_is_no_registration_is_ignored_and_said(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    for number, value in enumerate((b"", b"[]", b'{"name":"x"}', b"\xff")):
        await world.discovery.put(registration_key(PUBLIC_NAMESPACE, "chat", f"x{number}"), value)
    await register(world)
    async with worker(world, Worker()), following(world) as models:
        await models.wait_ready()
        assert models.names() == [MODEL]
    assert caplog.text.count("not the registration of a model") == 4


def test_a_registration_in_discovery_says_name_endpoint_and_type() -> None:
    registration = Registration("org/foo", Kind.Completion, EndpointId("ns", "Comp", "v1/chat"))
    assert registration.key("public") == "v1/registrations/public/completion/org%2Ffoo"
    assert msgspec.json.decode(registration.to_json()) == {
        "name": "org/foo",
        "endpoint": {"namespace": "ns", "component": "Comp", "name": "v1/chat"},
        "model_type": "Completion",
    }
    assert Registration.from_json(registration.to_json()) == registration


@pytest.mark.parametrize("name", ["/x", "", "..", "a b"], ids=["a leading slash", "nothing", "two dots", "a space"])
def test_a_registration_has_a_name_that_a_model_can_have(name: str) -> None:
    with pytest.raises(InvalidArgument):
        Registration(name, Kind.Chat, EndpointId("a", "b", "c"))


def test_what_another_version_writes_of_an_unknown_type_is_no_registration() -> None:
    data = Registration("foo", Kind.Chat, EndpointId("a", "b", "c")).to_json().replace(b"Chat", b"Video")
    with pytest.raises(ProtocolError):
        Registration.from_json(data)

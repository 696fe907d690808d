"""Models come and go with their workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from tests.llm.scene import DEADLINE_S, MODEL, ScriptedEngine, World, load_tokenizer, never, says_text, until

from dynamo._core.address import INSTANCES, EndpointId
from dynamo._core.context import Context
from dynamo._core.discovery.base import Change
from dynamo._core.discovery.memory import MemoryDiscovery
from dynamo._core.errors import DynamoError, InvalidArgument, NoInstances, NotFound, WorkerUnavailable
from dynamo.llm import KvPublisher, KvRouter, ModelType, RouterConfig, RouterMode
from dynamo.llm._model_card import ModelCard
from dynamo.llm._models import ModelManager
from dynamo.llm._openai import ChatRequest, CompletionRequest, parse

CHAT = parse(ChatRequest, {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]})
COMPLETION = parse(CompletionRequest, {"model": MODEL, "prompt": "hi"})


@asynccontextmanager
async def following(world: World, namespace: str | None = None) -> AsyncIterator[ModelManager]:
    async with world.runtime() as runtime, ModelManager(runtime, namespace=namespace) as models:
        yield models


def refusal(models: ModelManager) -> DynamoError | None:
    """Return why the model cannot be asked now."""
    try:
        models.pipeline(MODEL)
    except DynamoError as error:
        return error
    return None


async def test_a_model_comes_with_its_first_worker_and_goes_with_its_last(tiny_model: Path) -> None:
    world = World()
    async with following(world) as models:
        with pytest.raises(NotFound, match="'tiny' does not exist; served now: none yet"):
            models.pipeline(MODEL)
        async with world.worker(ScriptedEngine(never), tiny_model) as first:
            await until(lambda: models.names() == [MODEL])
            assert models.instances() == {MODEL: [f"test/worker/generate/{first.lease.id:x}"]}
            async with world.worker(ScriptedEngine(never), tiny_model):
                await until(lambda: len(models.instances()[MODEL]) == 2)
            await until(lambda: len(models.instances()[MODEL]) == 1)
            assert models.pipeline(MODEL) is models.pipeline(MODEL, CHAT)
        await until(lambda: models.names() == [])
        with pytest.raises(NoInstances, match="no live worker serves the model 'tiny'"):
            models.pipeline(MODEL)
        async with world.worker(ScriptedEngine(never), tiny_model):
            await until(lambda: models.names() == [MODEL])


async def test_requests_go_to_the_workers_in_turn(tiny_model: Path) -> None:
    world = World()
    tokenizer = await load_tokenizer(tiny_model)
    engines = [ScriptedEngine(says_text(tokenizer, "hi")) for _ in range(3)]
    async with AsyncExitStack() as workers, following(world) as models:
        for engine in engines:
            await workers.enter_async_context(world.worker(engine, tiny_model))
        await until(lambda: len(models.instances().get(MODEL, [])) == 3)
        for _ in range(6):
            await models.pipeline(MODEL).complete(CHAT, Context())
        assert [len(engine.requests) for engine in engines] == [2, 2, 2]


async def test_a_card_that_differs_is_refused_until_the_others_are_gone(
    tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    tokenizer = await load_tokenizer(tiny_model)
    old, new = (ScriptedEngine(says_text(tokenizer, "hi")) for _ in range(2))
    async with following(world) as models:
        async with AsyncExitStack() as first:
            await first.enter_async_context(world.worker(old, tiny_model, context_length=512))
            await until(lambda: models.names() == [MODEL])
            second = await first.enter_async_context(AsyncExitStack())
            await second.enter_async_context(world.worker(new, tiny_model, context_length=256, on_conflict="wait"))
            await until(lambda: "is refused" in caplog.text)
            assert "its context length is 256, and that of the workers that serve it now is 512" in caplog.text
            for _ in range(4):
                await models.pipeline(MODEL).complete(CHAT, Context())
            assert (len(old.requests), len(new.requests)) == (4, 0)
            kept = second.pop_all()
        await until(lambda: models.names() == [MODEL])
        await models.pipeline(MODEL).complete(CHAT, Context())
        assert (len(old.requests), len(new.requests)) == (4, 1)
        await kept.aclose()


async def test_a_router_whose_model_is_replaced_does_not_hear_the_workers_that_follow(
    tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world, by_kv = World(), RouterConfig(RouterMode.KV)
    async with world.runtime() as frontend, ModelManager(frontend, router=by_kv) as models, AsyncExitStack() as later:
        async with world.worker(ScriptedEngine(never), tiny_model, kv_cache_block_size=16):
            await until(lambda: models.names() == [MODEL])
            second = await later.enter_async_context(
                world.worker(ScriptedEngine(never), tiny_model, kv_cache_block_size=32, on_conflict="wait")
            )
            publisher = KvPublisher(second.endpoint("test.worker.generate"), kv_block_size=32)
            await until(lambda: "is refused" in caplog.text)
            first_router = models.routers()[MODEL]
        await until(lambda: MODEL in models.routers() and models.routers()[MODEL] is not first_router)
        router = models.routers()[MODEL]
        assert isinstance(router, KvRouter)
        publisher.stored(None, [1], [11])
        await until(lambda: (index := router.index_stats()) is not None and index.num_blocks == 1)
        assert "its events are ignored" not in caplog.text


async def test_a_router_without_workers_does_not_hear_those_of_another_model_that_has_its_name(
    tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world, by_kv = World(), RouterConfig(RouterMode.KV)
    async with world.runtime() as frontend, ModelManager(frontend, router=by_kv) as models:
        async with world.worker(ScriptedEngine(never), tiny_model, kv_cache_block_size=16):
            await until(lambda: models.names() == [MODEL])
        await until(lambda: models.names() == [])
        async with world.worker(ScriptedEngine(never), tiny_model, kv_cache_block_size=32) as worker:
            publisher = KvPublisher(worker.endpoint("test.worker.generate"), kv_block_size=32)
            await until(lambda: models.names() == [MODEL])
            router = models.routers()[MODEL]
            assert isinstance(router, KvRouter)
            publisher.stored(None, [1], [11])
            await until(lambda: (index := router.index_stats()) is not None and index.num_blocks == 1)
    assert "its events are ignored" not in caplog.text


async def test_a_worker_at_another_endpoint_is_refused(tiny_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    async with following(world) as models, world.worker(ScriptedEngine(never), tiny_model):
        await until(lambda: models.names() == [MODEL])
        async with world.worker(ScriptedEngine(never), tiny_model, endpoint="test.other.generate"):
            await until(lambda: "is refused" in caplog.text)
            assert "its endpoint is test/other/generate" in caplog.text
        assert len(models.instances()[MODEL]) == 1


async def test_a_model_that_cannot_be_loaded_is_said_once_and_harms_no_other(
    tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    broken = ModelCard.from_local_path(tiny_model, name="broken")
    broken = msgspec.structs.replace(broken, source_path="/nowhere")
    at = EndpointId("test", "broken", "generate")
    async with following(world) as models, world.worker(ScriptedEngine(never), tiny_model):
        for instance_id in (1, 2, 3):
            await world.discovery.put(at.model_card_key(instance_id), broken.to_json())
        await world.discovery.put(at.model_card_key(4), b"not a card")
        await until(lambda: models.names() == [MODEL] and "not a model card" in caplog.text)
        await until(lambda: "cannot be served" in caplog.text)
        with pytest.raises(WorkerUnavailable, match="cannot be loaded"):
            models.pipeline("broken")
        said = [record for record in caplog.records if "cannot be served" in record.getMessage()]
        assert len(said) == 1
        assert "/nowhere" in said[0].getMessage()


async def test_a_model_that_could_not_be_loaded_is_tried_again_with_the_next_card(tiny_model: Path) -> None:
    world = World()
    broken = msgspec.structs.replace(ModelCard.from_local_path(tiny_model, name=MODEL), source_path="/nowhere")
    await world.discovery.put(EndpointId("test", "worker", "generate").model_card_key(1), broken.to_json())
    async with following(world) as models:
        await until(lambda: isinstance(refusal(models), WorkerUnavailable))
        async with world.worker(ScriptedEngine(never), tiny_model):
            await until(lambda: models.names() == [MODEL])


async def test_a_model_whose_workers_cannot_be_followed_is_said_to_be_broken(
    tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class HalfBlind(MemoryDiscovery):
        def watch(self, prefix: str) -> AsyncGenerator[Change, None]:
            if prefix.startswith(INSTANCES):
                raise DynamoError("discovery does not show instances")
            return super().watch(prefix)

    world = World()
    world.discovery = HalfBlind()
    async with following(world) as models, world.worker(ScriptedEngine(never), tiny_model):
        await until(lambda: isinstance(refusal(models), WorkerUnavailable))
    assert "the model 'tiny' cannot be served: discovery does not show instances" in caplog.text


async def test_only_the_models_of_the_namespace_are_seen(tiny_model: Path) -> None:
    world = World()
    async with (
        world.worker(ScriptedEngine(never), tiny_model, model="a", endpoint="one.worker.generate"),
        world.worker(ScriptedEngine(never), tiny_model, model="b", endpoint="two.worker.generate"),
        following(world, namespace="two") as models,
    ):
        await until(lambda: models.names() == ["b"])


async def test_a_request_of_a_kind_that_the_model_does_not_answer_is_refused(tiny_model: Path) -> None:
    world = World()
    worker = world.worker(ScriptedEngine(never), tiny_model, model_type=ModelType.Completions)
    async with worker, world.models() as models:
        models.pipeline(MODEL, COMPLETION)
        with pytest.raises(InvalidArgument, match="answers completions requests only"):
            models.pipeline(MODEL, CHAT)


async def test_cards_of_other_kinds_are_no_business_of_a_frontend(tiny_model: Path) -> None:
    world = World()
    prefill = ModelCard.from_local_path(tiny_model, name=MODEL, model_type=ModelType.Prefill)
    await world.discovery.put(EndpointId("test", "prefill", "generate").model_card_key(1), prefill.to_json())
    async with world.worker(ScriptedEngine(never), tiny_model), world.models() as models:
        assert models.names() == [MODEL]


async def test_a_live_instance_without_a_card_gets_no_request(tiny_model: Path) -> None:
    world = World()
    tokenizer = await load_tokenizer(tiny_model)
    carded, other = (ScriptedEngine(says_text(tokenizer, "hi")) for _ in range(2))
    async with world.worker(carded, tiny_model), world.runtime() as runtime, world.models() as models:
        await runtime.endpoint("test.worker.generate").serve(other.generate)
        for _ in range(4):
            await models.pipeline(MODEL).complete(CHAT, Context())
        assert (len(carded.requests), len(other.requests)) == (4, 0)


async def test_a_request_that_runs_survives_the_end_of_its_model(tiny_model: Path) -> None:
    world = World()
    tokenizer = await load_tokenizer(tiny_model)
    go = asyncio.Event()
    says = says_text(tokenizer, "hi")

    async def script(request: object) -> AsyncIterator[object]:
        await go.wait()
        async for output in says(request):  # type: ignore[arg-type]
            yield output

    engine = ScriptedEngine(script)  # type: ignore[arg-type]
    async with following(world) as models, world.worker(engine, tiny_model) as worker:
        await until(lambda: models.names() == [MODEL])
        answer = asyncio.create_task(models.pipeline(MODEL).complete(CHAT, Context()))
        await engine.started.wait()
        await worker.discovery.delete(EndpointId("test", "worker", "generate").model_card_key(worker.lease.id))
        await until(lambda: models.names() == [])
        go.set()
        async with asyncio.timeout(DEADLINE_S):
            assert b'"hi"' in await answer

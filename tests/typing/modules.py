"""A program that uses every public module by its documented names alone: it must import, and type-check strictly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from dynamo._internal import (
    CancellationToken,
    Component,
    Context,
    ModelDeploymentCard,
    ModelRuntimeConfig,
    Namespace,
)
from dynamo.llm import (
    ApproxKvIndexer,
    Backend,
    EngineConfig,
    EngineType,
    EntrypointArgs,
    ForwardPassMetrics,
    HttpAsyncEngine,
    HttpError,
    HttpService,
    KvIndexer,
    KvPublisher,
    KvRecorder,
    KvRouter,
    KvRouterConfig,
    KvStats,
    ModelConfig,
    ModelInput,
    ModelType,
    OAIChatPreprocessor,
    OverlapScores,
    PythonAsyncEngine,
    RadixTree,
    RouterConfig,
    RouterMode,
    SpecDecodeStats,
    WorkerMetricsPublisher,
    WorkerStats,
    compute_block_hash_for_seq,
    fetch_llm,
    log_message,
    make_engine,
    register_llm,
    register_model,
    run_input,
    unregister_llm,
)
from dynamo.metrics import Counter, Gauge, Histogram, Metrics, counter, gauge, histogram
from dynamo.runtime import Client, DistributedRuntime, Endpoint, dynamo_worker

apples: Counter = counter("typing_apples", "Apples that were sold", ("kind",))
waiting: Gauge = gauge("typing_waiting", "Customers that wait")
weights: Histogram = histogram("typing_weight_grams", "What an apple weighs", buckets=(50, 100, 200))


async def count(request: str) -> AsyncIterator[int]:
    for word in request.split():
        apples.labels("red").inc()
        weights.observe(len(word))
        yield len(word)


@dynamo_worker()
async def in_one_step(runtime: DistributedRuntime) -> None:
    """Serve and call without an `Endpoint`."""
    served = await runtime.serve("shop.words.count", count)
    client: Client = await runtime.client("shop.words.count")
    async for item in await client.round_robin("one two", annotated=False):
        waiting.set(len(str(item)))
    await served.close()


@dynamo_worker()
async def along_the_chain(runtime: DistributedRuntime, greeting: str) -> int:
    """What older programs do, with the names of the classes that they pass on."""
    namespace: Namespace = runtime.namespace("shop")
    component: Component = namespace.component("words")
    endpoint: Endpoint = component.endpoint("count")
    token: CancellationToken = runtime.primary_token()
    await component.create_service()
    context = Context()
    stream = await (await endpoint.client()).direct(greeting, endpoint.lease_id(), context=context)
    async for item in stream:
        print(item.data(), context.is_stopped(), token)
    Metrics.counter("typing_chains", "Chains that were followed").inc()
    endpoint.metrics.counter("typing_requests", "Requests of this endpoint").inc()
    return endpoint.lease_id()


async def serve_a_model(endpoint: Endpoint) -> ModelDeploymentCard:
    path = await fetch_llm("/models/llama")
    card: ModelDeploymentCard = await register_llm(endpoint, ModelConfig(path=path))
    await register_llm(
        endpoint,
        ModelConfig(
            path=path,
            name="llama",
            context_length=4096,
            kv_cache_block_size=16,
            model_type=ModelType.Chat | ModelType.Completions,
            router_mode=RouterMode.KV,
            runtime_config=ModelRuntimeConfig(total_kv_blocks=1024, max_num_seqs=64),
        ),
    )
    await register_llm(
        ModelInput.Tokens,
        ModelType.Chat,
        endpoint,
        "/models/llama",
        "llama",
        context_length=4096,
        kv_cache_block_size=16,
        migration_limit=3,
        user_data={"owner": "me"},
    )
    await register_model(ModelInput.Tokens, ModelType.Chat, endpoint, "/models/llama")
    await unregister_llm(endpoint)
    return card


async def route(endpoint: Endpoint, component: Component, token_ids: list[int]) -> OverlapScores[int]:
    """One router and one publisher, by mode and by source, and what is beneath them."""
    config = RouterConfig(RouterMode.KV, KvRouterConfig(use_kv_events=False))
    async with KvRouter(endpoint, block_size=16, kv_router_config=config.config) as router:
        worker_id, dp_rank, overlap_blocks = await router.best_worker(token_ids)
        async for answer in await router.generate(token_ids, "llama", worker_id=worker_id, dp_rank=dp_rank):
            print(answer, overlap_blocks)
    async with (
        KvPublisher(endpoint, kv_block_size=16) as by_the_engine,
        KvPublisher(endpoint, kv_block_size=16, zmq_endpoint="tcp://127.0.0.1:5557") as from_zmq,
    ):
        by_the_engine.publish_stored(token_ids[:16], [16], [1])
        by_the_engine.publish_removed([1])
        print(from_zmq.num_blocks)
    tree = RadixTree()
    print(tree.find_matches(compute_block_hash_for_seq(token_ids, 16)).scores)
    KvRecorder(component, "/tmp/events.jsonl", max_count=1000)
    approximate = ApproxKvIndexer(component, 16)
    await approximate.find_matches_for_request(token_ids)
    async with KvIndexer(component, 16) as indexer:
        return await indexer.find_matches_for_request(token_ids, 0)


async def tell_the_load(endpoint: Endpoint) -> ForwardPassMetrics:
    publisher = WorkerMetricsPublisher()
    await publisher.create_endpoint(endpoint)
    load = ForwardPassMetrics(
        worker_stats=WorkerStats(request_active_slots=1, request_total_slots=64, num_requests_waiting=0),
        kv_stats=KvStats(kv_active_blocks=10, kv_total_blocks=1024),
        spec_decode_stats=SpecDecodeStats(num_drafts=1),
    )
    publisher.publish(load)
    return load


async def embed_a_frontend(runtime: DistributedRuntime) -> None:
    args = EntrypointArgs(EngineType.Dynamic, http_port=8080)
    engine: EngineConfig = await make_engine(runtime, args)
    await run_input(runtime, "http", engine)


async def serve_http(runtime: DistributedRuntime) -> None:
    async def answer(request: object) -> AsyncIterator[dict[str, object]]:
        if not request:
            raise HttpError(400, "an empty request")
        yield {"choices": []}

    service = HttpService(port=8080)
    service.add_chat_completions_model("echo", HttpAsyncEngine(answer, asyncio.get_running_loop()))
    service.add_completions_model("python", PythonAsyncEngine(answer, asyncio.get_running_loop()))
    log_message("info", "serving", __name__, __file__, 1)
    await service.run(runtime.child_token())


async def preprocess(card: ModelDeploymentCard, here: Endpoint, workers: Endpoint) -> None:
    await OAIChatPreprocessor(card, here, workers).start()

    async def tokens(request: object) -> AsyncIterator[dict[str, object]]:
        yield {"token_ids": [1]}

    await Backend(card, workers).start(tokens)

"""A running router: it follows the workers, serves its endpoints, and ends in order.

The order of an end is fixed: the model is no longer listed, the endpoints take no more requests and finish those that
they have, and then nobody is followed any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager

from dynamo._internal import Component
from dynamo.llm import KvRouter
from dynamo.llm._zero_hits import LOOK_S, ZeroHits
from dynamo.router._bookings import Bookings
from dynamo.router._config import RouterOptions
from dynamo.router._handlers import Handlers
from dynamo.router._metrics import RouterMetrics
from dynamo.router._registration import RouterCard
from dynamo.router._workers import EndpointWorkers
from dynamo.runtime import DistributedRuntime, ServedEndpoint
from dynamo.runtime._health import HealthKind
from dynamo.runtime._process import settle

logger = logging.getLogger(__name__)


async def serve_router(runtime: DistributedRuntime, options: RouterOptions) -> None:
    """Route until the runtime shuts down. Without a block size, wait for a worker that says one first."""
    endpoint = runtime.endpoint(options.endpoint)
    async with AsyncExitStack() as stack:
        client = await endpoint.client()
        stack.push_async_callback(client.close)
        workers = await stack.enter_async_context(EndpointWorkers(endpoint, client, options.block_size))
        await workers.wait_for_block_size()
        router = await stack.enter_async_context(_kv_router(workers, options))
        await _serve(runtime, options, workers, router)


def _kv_router(workers: EndpointWorkers, options: RouterOptions) -> KvRouter:
    assert workers.block_size is not None
    config = options.router_config()
    return KvRouter(
        workers.endpoint,
        workers.block_size,
        config.config,
        session_affinity_ttl_secs=config.session_affinity_ttl_secs,
        session_affinity_mode=config.session_affinity_mode,
        load_threshold_config=config.load_thresholds,
        client=workers.client,
        workers=workers,
    )


async def _serve(
    runtime: DistributedRuntime, options: RouterOptions, workers: EndpointWorkers, router: KvRouter
) -> None:
    component = runtime.namespace(options.own_namespace).component(options.component)
    bookings = Bookings(router, options.booking_timeout_s)
    watch = ZeroHits()
    handlers = Handlers(router, workers, bookings, watch)
    card = RouterCard(component.endpoint("generate"), workers)
    beside = [bookings.expire_forever(), _look_forever(watch, workers, router)]
    if options.serves_model:
        beside.append(card.keep())
    async with AsyncExitStack() as stack:
        _show(stack, runtime, workers, RouterMetrics(router, bookings, lambda: _model(workers)))
        await stack.enter_async_context(_served(component, handlers))
        stack.push_async_callback(card.withdraw)
        settle()
        _say(options, component, workers)
        await _until_shutdown(runtime, beside)


def _show(stack: AsyncExitStack, runtime: DistributedRuntime, workers: EndpointWorkers, metrics: RouterMetrics) -> None:
    """Have the system server tell of the router, until the end of the block."""

    async def has_worker() -> bool:
        return bool(workers.instance_ids())

    runtime.exposition.add(metrics)
    stack.callback(runtime.exposition.remove, metrics)
    stack.callback(runtime.health.remove, runtime.health.add(HealthKind.READINESS, "having a worker", has_worker))


@asynccontextmanager
async def _served(component: Component, handlers: Handlers) -> AsyncIterator[None]:
    """Serve the endpoints within the block. At its end all drain at once, in the time that one of them has."""
    served: list[ServedEndpoint] = []
    try:
        for name, handler in handlers.by_name().items():
            served.append(await component.endpoint(name).serve(handler))
        yield
    finally:
        await asyncio.gather(*(one.close() for one in served))


async def _until_shutdown(runtime: DistributedRuntime, beside: list[Coroutine[object, object, None]]) -> None:
    """Do what is to be done beside the requests. If something of that fails, the router ends."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one) for one in beside]
            await runtime.wait_for_shutdown()
            for task in tasks:
                task.cancel()
    except BaseExceptionGroup as failures:
        first = failures.exceptions[0]
        raise first from first.__cause__
    logger.info("draining")


async def _look_forever(watch: ZeroHits, workers: EndpointWorkers, router: KvRouter) -> None:
    while True:
        await asyncio.sleep(LOOK_S)
        watch.look({_model(workers): router})


def _model(workers: EndpointWorkers) -> str:
    return "" if workers.card is None else workers.card.display_name


def _say(options: RouterOptions, component: Component, workers: EndpointWorkers) -> None:
    own, at = f"{component.namespace}/{component.name}", workers.endpoint.id
    logger.info("listening on %s for the workers of %s, in blocks of %d tokens", own, at, workers.block_size)
    if not options.serves_model:
        logger.info(
            "frontends are not told of this router, because they see its workers: to put it before them, give it a "
            "--namespace of its own, and to the frontends the same"
        )

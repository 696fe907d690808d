"""A worker process: an engine, served and registered until a signal ends it.

Every engine's `__main__` is this with its own options. The order of an end is fixed: the model is no
longer listed, the endpoint takes no more requests and finishes those it has, the engine closes. A process may
be several workers of one model: each has its engine and its instance, and if one fails, all end.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import msgspec

from dynamo._core.address import EndpointId
from dynamo._core.context import Context
from dynamo._core.discovery.base import LEASE_TTL_S
from dynamo._core.errors import ConfigError, DynamoError, EngineShutdown, InvalidArgument
from dynamo._core.exit_status import FAILED, OK, USAGE
from dynamo.llm._fetch import default_model_name, fetch_llm
from dynamo.llm._messages import EngineOutput, PreprocessedRequest
from dynamo.llm._model_card import KV_CACHE_BLOCK_SIZE
from dynamo.llm._register import register_llm, serve_engine, unregister_llm
from dynamo.llm._worker_options import WorkerOptions
from dynamo.runtime import DistributedRuntime, Endpoint
from dynamo.runtime._logging import set_up_logging
from dynamo.runtime._process import failed, settle
from dynamo.runtime._signals import ending_on_signals

if TYPE_CHECKING:
    from dynamo.llm._model_config import ModelConfig

log = logging.getLogger(__name__)


class WorkerEngine(Protocol):
    """An engine that a worker process owns."""

    @property
    def max_context_length(self) -> int:
        """Tokens that a prompt and its output may have together."""

    def generate(self, request: PreprocessedRequest, context: Context) -> AsyncGenerator[EngineOutput, None]:
        """See `Engine`."""

    async def ended(self) -> EngineShutdown:
        """Wait until the engine takes no more requests, and return why."""

    async def close(self) -> None:
        """End what runs, and give everything back. A second call changes nothing."""


@runtime_checkable
class TellingEngine(Protocol):
    """An engine that tells which of the things that requests may ask for it can do."""

    @property
    def capabilities(self) -> Sequence[str]:
        """Names of `_capabilities.py`; those that are not there cannot be asked for."""


@runtime_checkable
class CachingEngine(Protocol):
    """An engine that keeps its KV cache in blocks, which its model card tells routers."""

    @property
    def kv_cache_block_size(self) -> int:
        """Tokens in one block."""

    @property
    def runtime_config(self) -> dict[str, object]:
        """The card's `runtime_config`: `total_kv_blocks`, `max_num_seqs`, `max_num_batched_tokens` and the like."""


#: Makes the engine for the model in this directory.
StartEngine = Callable[[Path], Awaitable[WorkerEngine]]
#: Makes it for this endpoint: whose lease is the worker's id, and whose runtime takes events and metrics.
StartEngineAt = Callable[[Path, Endpoint], Awaitable[WorkerEngine]]


def kv_cache_facts(engine: WorkerEngine) -> tuple[int, dict[str, object]]:
    """Return the block size and the `runtime_config` for the card of an engine."""
    if isinstance(engine, CachingEngine):
        return engine.kv_cache_block_size, engine.runtime_config
    return KV_CACHE_BLOCK_SIZE, {}


def capabilities_of(engine: WorkerEngine, runtime_config: Mapping[str, object]) -> list[str] | None:
    """Return the capabilities for the card of an engine: what it tells, and its events; None if it does not tell."""
    if not isinstance(engine, TellingEngine):
        return None
    events = ["kv_events"] if runtime_config.get("kv_events") else []
    return list(dict.fromkeys([*engine.capabilities, *events]))


def model_config(
    engine: WorkerEngine, path: Path, name: str, *, labels: Mapping[str, object], **options: object
) -> ModelConfig:
    """Return what a worker with this engine registers; `options` are fields of a `ModelConfig`."""
    from dynamo.llm._model_config import ModelConfig
    from dynamo.llm._plain_model import made_of

    block_size, runtime_config = kv_cache_facts(engine)
    fields = {
        "path": path,
        "name": name,
        "context_length": engine.max_context_length,
        "kv_cache_block_size": block_size,
        "capabilities": capabilities_of(engine, runtime_config),
        "runtime_config": {**runtime_config, **labels},
        **options,
    }
    return made_of(ModelConfig, fields)


def run_engine_worker(options: WorkerOptions, start_engine: StartEngine, *, needs_weights: bool = True) -> int:
    """Serve until a signal comes; return the exit status. A mistake of the user's is one line on stderr.

    A signal that comes before anything is served ends the process with the status that a shell expects.
    """

    async def start(path: Path, endpoint: Endpoint) -> WorkerEngine:
        return await start_engine(path)

    return run_engine_workers(options, start, needs_weights=needs_weights)


def run_engine_workers(
    options: WorkerOptions, start_engine: StartEngineAt, *, needs_weights: bool = True, num_workers: int = 1
) -> int:
    """Do what `run_engine_worker` does, with an engine that knows its endpoint, and with so many workers."""
    import uvloop

    try:
        set_up_logging(os.environ)
    except ConfigError as error:
        return failed(error, USAGE)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
            loop.run(_work(options, start_engine, needs_weights, num_workers))
    except DynamoError as error:
        return failed(error, FAILED)
    return OK


def read_request(value: object) -> PreprocessedRequest:
    """Read a request that arrived as plain values; raises `InvalidArgument` if it is none."""
    try:
        return msgspec.convert(value, PreprocessedRequest)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"not a request with token ids: {error}") from error


async def _work(options: WorkerOptions, start_engine: StartEngineAt, needs_weights: bool, num_workers: int) -> None:
    _ = options.model_type  # before anything is started, in case it is wrong
    runtime = DistributedRuntime(
        discovery=options.discovery, request_plane=options.request_plane, event_plane=options.event_plane
    )
    with ending_on_signals(runtime):
        async with runtime:
            path = await fetch_llm(options.model_path, ignore_weights=not needs_weights)
            endpoints = await _endpoints(runtime, options, num_workers)
            try:
                async with asyncio.TaskGroup() as workers:
                    for endpoint in endpoints:
                        workers.create_task(_be_worker(endpoint, start_engine, path, options))
            except BaseExceptionGroup as failures:
                first = failures.exceptions[0]
                raise first from first.__cause__


async def _endpoints(runtime: DistributedRuntime, options: WorkerOptions, num_workers: int) -> list[Endpoint]:
    """The endpoint of each worker: of the first under the process's lease, of the others under their own."""
    id = EndpointId(options.namespace, options.component, options.endpoint)
    leases = [await runtime.grant_custom_lease(LEASE_TTL_S) for _ in range(num_workers - 1)]
    return [Endpoint(runtime, id, lease) for lease in (None, *leases)]


async def _be_worker(endpoint: Endpoint, start_engine: StartEngineAt, path: Path, options: WorkerOptions) -> None:
    engine = await start_engine(path, endpoint)
    try:
        await _serve(endpoint, engine, path, options)
    finally:
        await engine.close()


async def _serve(endpoint: Endpoint, engine: WorkerEngine, path: Path, options: WorkerOptions) -> None:
    config = model_config(
        engine,
        path,
        options.model_name or default_model_name(options.model_path),
        labels=options.labels(),
        model_type=options.model_type,
        migration_limit=options.migration_limit,
        custom_template_path=options.custom_jinja_template,
        on_conflict=options.on_conflict,
    )
    served = await serve_engine(endpoint, engine)
    try:
        card = await register_llm(endpoint, config)
        settle()
        log.info("serving the model %r at %s, instance %x", card.display_name, endpoint.id, served.instance_id)
        failure = await _end_of(endpoint.runtime, engine)
        await unregister_llm(endpoint)
        if failure is not None:
            raise failure
        log.info("draining")
    finally:
        await served.close()


async def _end_of(runtime: DistributedRuntime, engine: WorkerEngine) -> EngineShutdown | None:
    """Wait until the runtime shuts down, or the engine ends before it, for a reason that is returned."""
    asked = asyncio.ensure_future(runtime.wait_for_shutdown())
    ended = asyncio.ensure_future(engine.ended())
    try:
        await asyncio.wait([asked, ended], return_when=asyncio.FIRST_COMPLETED)
        return ended.result() if ended.done() else None
    finally:
        asked.cancel()
        ended.cancel()
        await asyncio.gather(asked, ended, return_exceptions=True)

"""A worker process: an engine, served and registered until a signal ends it.

Every engine's `__main__` is this with its own options. The order of an end is fixed: the model is no
longer listed, the endpoint takes no more requests and finishes those it has, the engine closes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Protocol

import msgspec

from dynamo._core.context import Context
from dynamo._core.errors import ConfigError, DynamoError, EngineShutdown, InvalidArgument
from dynamo.llm._fetch import default_model_name, fetch_llm
from dynamo.llm._messages import EngineOutput, PreprocessedRequest
from dynamo.llm._model_card import ModelInput, ModelType
from dynamo.llm._register import register_llm, serve_engine, unregister_llm
from dynamo.llm._worker_options import WorkerOptions
from dynamo.runtime import DistributedRuntime
from dynamo.runtime._logging import set_up_logging
from dynamo.runtime._process import settle
from dynamo.runtime._settings import USAGE
from dynamo.runtime._signals import ending_on_signals

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


#: Makes the engine for the model in this directory.
StartEngine = Callable[[Path], Awaitable[WorkerEngine]]


def run_engine_worker(options: WorkerOptions, start_engine: StartEngine, *, needs_weights: bool = True) -> int:
    """Serve until a signal comes; return the exit status. A mistake of the user's is one line on stderr.

    A signal that comes before anything is served ends the process with the status that a shell expects.
    """
    import uvloop

    try:
        set_up_logging(os.environ)
    except ConfigError as error:
        return _failed(error, USAGE)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as loop:
            loop.run(_work(options, start_engine, needs_weights))
    except DynamoError as error:
        return _failed(error, 1)
    return 0


def _failed(error: DynamoError, status: int) -> int:
    sys.stderr.write(f"error: {error}\n")
    return status


def read_request(value: object) -> PreprocessedRequest:
    """Read a request that arrived as plain values; raises `InvalidArgument` if it is none."""
    try:
        return msgspec.convert(value, PreprocessedRequest)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"not a request with token ids: {error}") from error


async def _work(options: WorkerOptions, start_engine: StartEngine, needs_weights: bool) -> None:
    model_type = ModelType.parse(options.endpoint_types)
    runtime = DistributedRuntime(
        discovery=options.discovery, request_plane=options.request_plane, event_plane=options.event_plane
    )
    with ending_on_signals(runtime):
        async with runtime:
            path = await fetch_llm(options.model_path, ignore_weights=not needs_weights)
            engine = await start_engine(path)
            try:
                await _serve(runtime, engine, path, options, model_type)
            finally:
                await engine.close()


async def _serve(
    runtime: DistributedRuntime, engine: WorkerEngine, path: Path, options: WorkerOptions, model_type: ModelType
) -> None:
    endpoint = runtime.namespace(options.namespace).component(options.component).endpoint(options.endpoint)
    served = await serve_engine(endpoint, engine)
    try:
        card = await register_llm(
            ModelInput.Tokens,
            model_type,
            endpoint,
            str(path),
            options.model_name or default_model_name(options.model_path),
            context_length=engine.max_context_length,
            migration_limit=options.migration_limit,
            custom_template_path=options.custom_jinja_template,
        )
        settle()
        log.info("serving the model %r at %s, instance %x", card.display_name, endpoint.id, served.instance_id)
        failure = await _end_of(runtime, engine)
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

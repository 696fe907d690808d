"""Engines of this process: made from the options that they have as workers, served and registered like any other."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dynamo.entrypoint._answering import Ended
from dynamo.llm._fetch import default_model_name, fetch_llm
from dynamo.llm._register import register_llm, serve_engine, unregister_llm
from dynamo.llm._worker import StartEngine, StartEngineAt, WorkerEngine, model_config
from dynamo.llm._worker_options import WorkerOptions
from dynamo.runtime import DistributedRuntime, Endpoint

if TYPE_CHECKING:
    from dynamo.echo.__main__ import EchoOptions
    from dynamo.mocker.__main__ import MockerOptions
    from dynamo.transformers.__main__ import TransformersOptions


@dataclass(frozen=True)
class LocalEngine:
    """An engine that has not started yet."""

    options: WorkerOptions
    start: StartEngineAt
    needs_weights: bool
    #: What its model card says of it beside what the options and the engine say.
    runtime_config: Mapping[str, object] = field(default_factory=dict)

    @property
    def model_name(self) -> str:
        """What requests call its model."""
        return self.options.model_name or default_model_name(self.options.model_path)

    async def fetch(self) -> Path:
        """Return the directory of its model. Raises `NotFound` or `ConfigError` if there is none to be had."""
        return await fetch_llm(self.options.model_path, ignore_weights=not self.needs_weights)


# Each raises `ConfigError` for options that contradict each other.


def echo_engine(options: EchoOptions) -> LocalEngine:
    """An engine that says prompts back."""
    from dynamo.echo.__main__ import start_engine

    return LocalEngine(options, _anywhere(start_engine(options)), needs_weights=False)


def mocker_engine(options: MockerOptions) -> LocalEngine:
    """A simulated engine."""
    from dynamo.mocker.__main__ import start_engine

    return LocalEngine(options, start_engine(options), needs_weights=False)


def transformers_engine(options: TransformersOptions) -> LocalEngine:
    """An engine with a model."""
    from dynamo.transformers.__main__ import start_engine

    return LocalEngine(options, _anywhere(start_engine(options)), needs_weights=True)


@asynccontextmanager
async def served(engine: LocalEngine, runtime: DistributedRuntime) -> AsyncIterator[Ended]:
    """Within the block the engine runs, its endpoint is served, and its model is registered.

    At the end the model is no longer listed, the endpoint finishes the requests that it has, the engine closes.
    """
    options = engine.options
    path = await engine.fetch()
    endpoint = runtime.namespace(options.namespace).component(options.component).endpoint(options.endpoint)
    async with AsyncExitStack() as ends:
        running = await engine.start(path, endpoint)
        ends.push_async_callback(running.close)
        ends.push_async_callback((await serve_engine(endpoint, running)).close)
        config = model_config(
            running,
            path,
            engine.model_name,
            labels={**options.labels(), **engine.runtime_config},
            model_type=options.model_type,
            migration_limit=options.migration_limit,
            custom_template_path=options.custom_jinja_template,
            on_conflict=options.on_conflict,
        )
        await register_llm(endpoint, config)
        ends.push_async_callback(unregister_llm, endpoint)
        yield running.ended


def _anywhere(start: StartEngine) -> StartEngineAt:
    """What starts an engine that need not know its endpoint."""

    async def start_at(path: Path, endpoint: Endpoint) -> WorkerEngine:
        return await start(path)

    return start_at

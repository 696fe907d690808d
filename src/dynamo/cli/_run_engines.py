"""The engines that `dynamo run` can start, with the options that they have as workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

from dynamo._core.address import EndpointId
from dynamo.cli._run_options import FlagValue
from dynamo.cli._run_words import Local
from dynamo.entrypoint._engines import LocalEngine, echo_engine, transformers_engine
from dynamo.llm._worker_options import WorkerOptions
from dynamo.runtime._settings import read_settings


@dataclass(frozen=True)
class _Kind:
    options: type[WorkerOptions]
    prepare: Callable[[Sequence[str], Mapping[str, str]], LocalEngine]
    worker: Callable[[list[str]], int]


def engine_fields(local: Local) -> frozenset[str]:
    """The names of the options that this engine has."""
    return frozenset(declared.name for declared in fields(_kind(local).options))


def prepare(
    local: Local, model_name: str | None, options: Mapping[str, FlagValue], environ: Mapping[str, str]
) -> LocalEngine:
    """Return the engine with its options: those given here, then its variables, then its defaults.

    Raises `ConfigError` for one that is wrong.
    """
    return _kind(local).prepare(_flags(local, model_name, options), environ)


def run_worker(local: Local, endpoint: EndpointId, model_name: str | None, options: Mapping[str, FlagValue]) -> int:
    """Serve the engine at `endpoint`, as its own command does; return the exit status."""
    at = {"namespace": endpoint.namespace, "component": endpoint.component, "endpoint": endpoint.endpoint}
    return _kind(local).worker(_flags(local, model_name, {**options, **at}))


def _flags(local: Local, model_name: str | None, options: Mapping[str, FlagValue]) -> list[str]:
    named = {"model_path": local.model_path, **({} if model_name is None else {"model_name": model_name}), **options}
    return [f"--{name.replace('_', '-')}={value}" for name, value in named.items()]


def _kind(local: Local) -> _Kind:
    return {"echo": _echo, "transformers": _transformers}[local.engine]()


def _echo() -> _Kind:
    from dynamo.echo.__main__ import EchoOptions, main

    def prepare(flags: Sequence[str], environ: Mapping[str, str]) -> LocalEngine:
        return echo_engine(read_settings(EchoOptions, flags, environ, prog="dynamo run out=echo", description=""))

    return _Kind(EchoOptions, prepare, main)


def _transformers() -> _Kind:
    from dynamo.transformers.__main__ import TransformersOptions, main

    def prepare(flags: Sequence[str], environ: Mapping[str, str]) -> LocalEngine:
        options = read_settings(TransformersOptions, flags, environ, prog="dynamo run out=transformers", description="")
        return transformers_engine(options)

    return _Kind(TransformersOptions, prepare, main)

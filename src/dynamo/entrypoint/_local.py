"""From the arguments of an entry point to the engine of this process, whose options they are."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TypeVar

import msgspec

from dynamo._core.address import EndpointId
from dynamo._core.errors import ConfigError
from dynamo.entrypoint._args import EngineType, EntrypointArgs
from dynamo.entrypoint._engines import LocalEngine, echo_engine, mocker_engine
from dynamo.llm._worker_options import WorkerOptions
from dynamo.runtime._arguments import wrong_type
from dynamo.runtime._settings import Option, Value, options_of

Kind = TypeVar("Kind", bound=WorkerOptions)

OPTIONS_FILE_BYTES_MAX = 1 << 20

#: Options of a command that are not of one engine.
_NOT_OF_AN_ENGINE = {"num_workers"}
#: The options that parameters of their own are for.
_BLOCK_SIZE = "block_size"


async def local_engine(args: EntrypointArgs) -> LocalEngine:
    """Return the engine, which has not started yet. Raises `ConfigError` for options that it has not."""
    name = "extra_engine_args" if args.mocker_engine_args is None else "mocker_engine_args"
    given = await asyncio.to_thread(_read, name, getattr(args, name))
    if args.engine_type is EngineType.Mocker:
        from dynamo.mocker.__main__ import MockerOptions

        if args.kv_cache_block_size is not None:
            if _BLOCK_SIZE in given:
                raise ConfigError(f"{name} has {_BLOCK_SIZE!r}, which is kv_cache_block_size: give one of them")
            given = {**given, _BLOCK_SIZE: args.kv_cache_block_size}
        engine = mocker_engine(_options(MockerOptions, args, name, given))
    else:
        from dynamo.echo.__main__ import EchoOptions

        engine = echo_engine(_options(EchoOptions, args, name, given))
    return replace(engine, runtime_config=_runtime_config(args))


def at(engine: LocalEngine, endpoint: EndpointId) -> LocalEngine:
    """Return the same engine for another endpoint."""
    options = replace(
        engine.options, namespace=endpoint.namespace, component=endpoint.component, endpoint=endpoint.endpoint
    )
    return replace(engine, options=options)


def _options(kind: type[Kind], args: EntrypointArgs, name: str, given: Mapping[str, object]) -> Kind:
    values = _checked(kind, name, given)
    for option, value in (
        ("model_name", args.model_name),
        ("context_length", args.context_length),
        ("custom_jinja_template", None if args.template_file is None else str(args.template_file)),
        ("migration_limit", args.migration_limit),
    ):
        if value is not None:
            values[option] = value
    if (endpoint := args.endpoint()) is not None:
        values |= {
            "namespace": endpoint.namespace, "component": endpoint.component, "endpoint": endpoint.endpoint
        }  # fmt: skip
    return kind(model_path=str(args.model_path), **values)  # type: ignore[arg-type]  # checked just before


def _checked(kind: type[WorkerOptions], name: str, given: Mapping[str, object]) -> dict[str, Value]:
    """Return the options that an engine was given, each one that it has, and of the right type."""
    not_here = {one.name for one in fields(WorkerOptions)} | _NOT_OF_AN_ENGINE
    options = {one.name: one for one in options_of(kind) if one.name not in not_here}
    values: dict[str, Value] = {}
    for key, value in given.items():
        if key not in options:
            close = difflib.get_close_matches(str(key), options, n=1)
            meant = f"did you mean {close[0]!r}? " if close else ""
            raise ConfigError(f"{name} has {key!r}, which the engine has not: {meant}It has {', '.join(options)}")
        values[key] = _value(f"{name}[{key!r}]", value, options[key])
    return values


def _value(parameter: str, value: object, option: Option) -> Value:
    kind = option.value_type
    is_bool = isinstance(value, bool)
    if isinstance(value, kind) and is_bool == (kind is bool):
        return value
    if kind is float and isinstance(value, int) and not is_bool:
        return float(value)
    raise wrong_type(parameter, value, f"{_MEANT[kind]}{f', {option.allowed}' if option.allowed else ''}")


_MEANT: dict[type, str] = {bool: "True or False", int: "an integer", float: "a number", str: "a str"}


def _read(name: str, given: Mapping[str, object] | str | Path | None) -> Mapping[str, object]:
    """Return options that were given as such, or in a file."""
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return given
    try:
        with Path(given).open("rb") as file:
            text = file.read(OPTIONS_FILE_BYTES_MAX + 1)
        if len(text) > OPTIONS_FILE_BYTES_MAX:
            raise ConfigError(f"{name}={str(given)!r} is over {OPTIONS_FILE_BYTES_MAX} bytes", setting=name)
        return msgspec.json.decode(text, type=dict[str, object])
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"{name}={str(given)!r} is no file with a JSON object: {why}", setting=name) from error


def _runtime_config(args: EntrypointArgs) -> Mapping[str, object]:
    if args.runtime_config is None:
        return {}
    return args.runtime_config if isinstance(args.runtime_config, Mapping) else args.runtime_config.said()

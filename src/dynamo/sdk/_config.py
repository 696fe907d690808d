"""The configuration of a graph, merged once: command line over environment over file.

What comes out is what every worker gets. Each value is checked where it was written and keeps its source,
so that an error and a dry run can name the file, the line and the key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

from dynamo._core.errors import ConfigError
from dynamo.sdk._options import option_problems
from dynamo.sdk._sections import (
    COMMON,
    COMMON_CONFIGS,
    ENVIRONMENT_VARIABLE,
    SERVICE_ARGS,
    WHOLE_NUMBER,
    Json,
    KeyPath,
    Section,
    deep_merge,
    entries,
)
from dynamo.sdk._yaml import CONFIG_BYTES_MAX, DEPTH_MAX, Lines, read_file, read_text, too_deep
from dynamo.sdk.lib.config import ServiceConfig

#: Its text, YAML or JSON, is the whole configuration where a deployment sets it.
DEPLOYMENT_VARIABLE = "DYN_DEPLOYMENT_CONFIG"

_FLOAT = re.compile(r"[+-]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")

#: Below these keys of `ServiceArgs` all is text: a value of the command line is not read as anything else.
_TEXTS = ("envs", "labels")


@dataclass(frozen=True, slots=True)
class Layer:
    """What one source says, for every key where it says so, and a value of the command line as it was typed."""

    config: Section
    sources: dict[KeyPath, str] = field(default_factory=dict)
    typed: dict[KeyPath, str] = field(default_factory=dict)


class MergedConfig(ServiceConfig):
    """A configuration that knows where each of its values was written."""

    def __init__(self, config: Mapping[str, Section] | None = None) -> None:
        super().__init__(config or {})
        self.warnings: list[str] = []
        self._sources: dict[KeyPath, str] = {}
        self._typed: dict[KeyPath, str] = {}

    def overlaid(self, layer: Layer) -> MergedConfig:
        """Return this configuration with the values of a layer on top."""
        merged = MergedConfig(cast("dict[str, Section]", deep_merge(cast(Section, self), layer.config)))
        merged.warnings = list(self.warnings)
        merged._sources = self._sources | layer.sources
        merged._typed = {path: text for path, text in self._typed.items() if path not in layer.sources} | layer.typed
        return merged

    def as_typed(self, path: KeyPath) -> Layer | None:
        """The value at a path as the text that was typed on the command line; None if it comes from elsewhere."""
        if path not in self._typed:
            return None
        value: Json = self._typed[path]
        for key in reversed(path):
            value = {key: value}
        return Layer(cast(Section, value), {path: self._sources[path]})

    def source_of(self, *path: str) -> str | None:
        """Where the key at a path was written, such as `config.yaml:7`; None if no source names it."""
        return self._sources.get(path)

    def complaint(self, path: KeyPath, problem: str) -> str:
        """Say what is wrong with the key at a path, and where it was written."""
        return _complaint(self._sources, path, problem)


def merged_config(file: str | None, environment: Mapping[str, str], overrides: Sequence[str]) -> MergedConfig:
    """Merge a YAML file, `DYNAMO_SERVICE_CONFIG` and `Service.key=value` overrides, the last over the first.

    Where `DYN_DEPLOYMENT_CONFIG` is set, it replaces all of them, with a warning.
    """
    deployment = environment.get(DEPLOYMENT_VARIABLE, "")
    layers = _deployed(deployment) if deployment.strip() else _layers(file, environment, overrides)
    problems: list[str] = []
    config = MergedConfig()
    for layer in layers:
        problems += _problems(layer)
        config = config.overlaid(layer)
    if problems:
        raise ConfigError("\n".join(problems))
    if deployment.strip():
        config.warnings.append(_replaced(file, environment, overrides))
    size_bytes = len(json.dumps(config))
    if size_bytes > CONFIG_BYTES_MAX:
        raise ConfigError(f"the configuration is too large: {size_bytes} bytes of at most {CONFIG_BYTES_MAX}")
    return config


def layer_of(config: Section, origin: str, lines: Lines | None = None) -> Layer:
    """Return what one source says. Its variables are a mapping afterwards, so that those of another add to them."""
    config = {name: _with_envs_as_mapping(section) for name, section in config.items()}
    return Layer(config, {path: _source(origin, lines or {}, path) for path, _ in entries(config)})


def parse_override(override: str) -> Section:
    """Read `Service.key.key=value` into a mapping of mappings."""
    path, _, text = override.partition("=")
    keys = path.split(".")
    if len(keys) < 2 or not all(keys):
        raise ConfigError(f"--{path}: an override is written --Service.key=value")
    is_text = len(keys) > 3 and keys[1] == SERVICE_ARGS and keys[2] in _TEXTS
    value: Json = text if is_text else parse_value(text)
    for key in reversed(keys):
        value = {key: value}
    _check_depth(f"--{keys[0]}.{keys[1]}", value)
    return cast(Section, value)


def parse_value(text: str) -> Json:
    """Read a value of the command line: JSON, else a number, true or false, else the text itself."""
    try:
        return cast(Json, json.loads(text))
    except RecursionError as error:
        raise ConfigError(too_deep("a value")) from error
    except ValueError:
        stripped = text.strip()
    if WHOLE_NUMBER.fullmatch(stripped):
        return int(stripped)
    if _FLOAT.fullmatch(stripped):
        return float(stripped)
    if stripped.lower() in ("true", "false"):
        return stripped.lower() == "true"
    return text


def _layers(file: str | None, environment: Mapping[str, str], overrides: Sequence[str]) -> Iterator[Layer]:
    if file is not None:
        config, lines = read_file(file)
        yield layer_of(config, file, lines)
    inherited = cast(Section, ServiceConfig.from_json(environment.get(ENVIRONMENT_VARIABLE, "")))
    _check_depth(ENVIRONMENT_VARIABLE, inherited)
    yield layer_of(inherited, ENVIRONMENT_VARIABLE)
    for override in overrides:
        path, _, text = override.partition("=")
        layer = layer_of(parse_override(override), f"--{path}")
        yield replace(layer, typed={tuple(path.split(".")): text})


def _deployed(text: str) -> Iterator[Layer]:
    config, lines = read_text(DEPLOYMENT_VARIABLE, text)
    yield layer_of(config, DEPLOYMENT_VARIABLE, lines if "\n" in text.strip() else None)


def _replaced(file: str | None, environment: Mapping[str, str], overrides: Sequence[str]) -> str:
    unused = [] if file is None else [file]
    unused += [ENVIRONMENT_VARIABLE] if environment.get(ENVIRONMENT_VARIABLE) else []
    unused += [f"--{override.partition('=')[0]}" for override in overrides]
    instead = f", and not from {', '.join(unused)}" if unused else ""
    return f"the configuration is taken from {DEPLOYMENT_VARIABLE} alone{instead}"


def _source(origin: str, lines: Lines, path: KeyPath) -> str:
    written = next((path[:length] for length in range(len(path), 0, -1) if path[:length] in lines), None)
    return origin if written is None else f"{origin}:{lines[written]}"


def _with_envs_as_mapping(section: Json) -> Json:
    if not isinstance(section, dict):
        return section
    arguments = section.get(SERVICE_ARGS)
    envs = arguments.get("envs") if isinstance(arguments, dict) else None
    if not isinstance(arguments, dict) or not isinstance(envs, list):
        return section
    variables: Section = {}
    for entry in envs:
        name = entry["name"] if isinstance(entry, dict) and set(entry) == {"name", "value"} else None
        if not isinstance(entry, dict) or not isinstance(name, str) or name in variables:
            return section  # which the check of the options tells
        variables[name] = entry["value"]
    return {**section, SERVICE_ARGS: {**arguments, "envs": variables}}


def _check_depth(where: str, value: Json) -> None:
    level = [value]
    for _ in range(DEPTH_MAX):
        nested = [
            list(item.values()) if isinstance(item, dict) else item for item in level if isinstance(item, dict | list)
        ]
        level = [item for items in nested for item in items]
    if level:
        raise ConfigError(too_deep(where))


def _problems(layer: Layer) -> Iterator[str]:
    for name, section in layer.config.items():
        assert isinstance(section, dict), "each reader makes sure of it"
        wanted = section.get(COMMON_CONFIGS, [])
        if not isinstance(wanted, list) or not all(isinstance(key, str) for key in wanted):
            yield _complaint(layer.sources, (name, COMMON_CONFIGS), f"must be a list of keys of {COMMON}")
        arguments = section.get(SERVICE_ARGS)
        if arguments is not None and not isinstance(arguments, dict):
            yield _complaint(layer.sources, (name, SERVICE_ARGS), "must be a mapping")
        elif arguments is not None:
            for path, problem in option_problems(arguments):
                yield _complaint(layer.sources, (name, SERVICE_ARGS, *path), problem)


def _complaint(sources: Mapping[KeyPath, str], path: KeyPath, problem: str) -> str:
    key = ".".join(path)
    known = [path[:length] for length in range(len(path), 0, -1) if path[:length] in sources]
    source = sources[known[0]] if known else ""
    if not source or f"{source}.".startswith(f"--{key}."):  # the option names the key already
        return f"{source or key}: {problem}"
    return f"{source}: {key}: {problem}"

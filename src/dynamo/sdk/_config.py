"""The configuration of a graph, merged once: command line over environment over file.

What comes out is what every worker gets. Each value is checked where it was written, so that an error
can name the file, the line and the key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

from dynamo._core.errors import ConfigError
from dynamo.sdk._options import parse_options
from dynamo.sdk._sections import ENVIRONMENT_VARIABLE, SERVICE_ARGS, Json, Section, deep_merge
from dynamo.sdk.lib.config import ServiceConfig

#: It travels in one environment variable, of which Linux takes 128 KiB.
CONFIG_BYTES_MAX = 120 << 10

_DIGITS = re.compile(r"[+-]?\d+")
_FLOAT = re.compile(r"[+-]?(\d+\.\d*|\.\d+)([eE][+-]?\d+)?")


def merged_config(file: str | None, environment: Mapping[str, str], overrides: Sequence[str]) -> ServiceConfig:
    """Merge a YAML file, `DYNAMO_SERVICE_CONFIG` and `Service.key=value` overrides, the last over the first."""
    config: Section = {}
    if file is not None:
        config = read_file(file)
    config = deep_merge(config, cast(Section, ServiceConfig.from_json(environment.get(ENVIRONMENT_VARIABLE, ""))))
    _check_service_args(ENVIRONMENT_VARIABLE, config, {})
    for override in overrides:
        config = deep_merge(config, parse_override(override))
    _check_service_args("command line", config, {})
    size_bytes = len(json.dumps(config))
    if size_bytes > CONFIG_BYTES_MAX:
        raise ConfigError(f"the configuration is too large: {size_bytes} bytes of at most {CONFIG_BYTES_MAX}")
    return ServiceConfig(cast("dict[str, Section]", config))


def read_file(path: str) -> Section:
    """Read a YAML file of sections. An empty file is an empty configuration."""
    import yaml

    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(CONFIG_BYTES_MAX + 1)
        if len(text) > CONFIG_BYTES_MAX:
            raise ConfigError(f"{path} is too large: a configuration has at most {CONFIG_BYTES_MAX} characters")
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        lines = dict(_lines(path, node))
        config = None if node is None else loader.construct_document(node)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text") from error
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line}: this is not YAML: {error.problem}") from error
    if config is None:
        return {}
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: the file must map service names to sections")
    for name, section in config.items():
        if not isinstance(section, dict):
            raise ConfigError(f"{path}:{lines[(name,)]}: the section {name} must be a mapping, not {section!r}")
    _check_service_args(path, config, lines)
    return config


def parse_override(override: str) -> Section:
    """Read `Service.key.key=value` into a mapping of mappings."""
    path, _, text = override.partition("=")
    keys = path.split(".")
    if len(keys) < 2 or not all(keys):
        raise ConfigError(f"--{override}: an override is written --Service.key=value")
    value: Json = parse_value(text)
    for key in reversed(keys):
        value = {key: value}
    return cast(Section, value)


def parse_value(text: str) -> Json:
    """Read a value of the command line: JSON, else a number, true or false, else the text itself."""
    try:
        return cast(Json, json.loads(text))
    except (ValueError, RecursionError):
        stripped = text.strip()
    if _DIGITS.fullmatch(stripped):
        return int(stripped)
    if _FLOAT.fullmatch(stripped):
        return float(stripped)
    if stripped.lower() in ("true", "false"):
        return stripped.lower() == "true"
    return text


Lines = Mapping[tuple[str, ...], int]


def _lines(path: str, node: object) -> Iterator[tuple[tuple[str, ...], int]]:
    """Yield the line of every key of a YAML mapping. A key that is no text, or stands twice, is an error."""
    import yaml

    stack: list[tuple[tuple[str, ...], object]] = [((), node)]
    while stack:
        keys, current = stack.pop()
        if not isinstance(current, yaml.MappingNode):
            continue
        seen: set[str] = set()
        for key, value in current.value:
            line = key.start_mark.line + 1
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.tag != "tag:yaml.org,2002:str":
                raise ConfigError(f"{path}:{line}: the key {key.value!r} is read as {key.tag[18:]}; write it in quotes")
            if key.value in seen:
                raise ConfigError(f"{path}:{line}: the key {key.value!r} stands here a second time")
            seen.add(key.value)
            yield (*keys, key.value), line
            stack.append(((*keys, key.value), value))


def _check_service_args(source: str, config: Section, lines: Lines) -> None:
    for name, section in config.items():
        if not isinstance(section, dict):
            raise ConfigError(f"{source}: {name} must be a section, such as {name}.key=value, not a value")
        arguments = section.get(SERVICE_ARGS)
        line = lines.get((name, SERVICE_ARGS))
        where = f"{source}:{line}: {name}.{SERVICE_ARGS}" if line else f"{source}: {name}.{SERVICE_ARGS}"
        if arguments is None:
            continue
        if not isinstance(arguments, dict):
            raise ConfigError(f"{where} must be a mapping")
        parse_options(where, arguments)

"""The configuration of a graph, merged once: command line over environment over file.

What comes out is what every worker gets. Each value is checked where it was written, so that an error
can name the file, the line and the key.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, cast

from dynamo._core.errors import ConfigError
from dynamo.sdk._options import parse_options
from dynamo.sdk._sections import (
    COMMON,
    COMMON_CONFIGS,
    ENVIRONMENT_VARIABLE,
    SERVICE_ARGS,
    Json,
    Section,
    deep_merge,
)
from dynamo.sdk.lib.config import ServiceConfig

if TYPE_CHECKING:
    import yaml

#: It travels in one environment variable, of which Linux takes 128 KiB.
CONFIG_BYTES_MAX = 120 << 10

#: The values of a file, counted as often as they are referred to: no more than the file has characters.
_VALUES_MAX = CONFIG_BYTES_MAX
_DEPTH_MAX = 64

_DIGITS = re.compile(r"[+-]?[0-9]{1,4000}")  # Python reads no longer ones
_FLOAT = re.compile(r"[+-]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_JSON_TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "map", "seq"))


def merged_config(file: str | None, environment: Mapping[str, str], overrides: Sequence[str]) -> ServiceConfig:
    """Merge a YAML file, `DYNAMO_SERVICE_CONFIG` and `Service.key=value` overrides, the last over the first."""
    config: Section = {}
    if file is not None:
        config = read_file(file)
    inherited = cast(Section, ServiceConfig.from_json(environment.get(ENVIRONMENT_VARIABLE, "")))
    _check_depth(ENVIRONMENT_VARIABLE, inherited)
    config = deep_merge(config, inherited)
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
    except RecursionError as error:
        raise ConfigError(_too_deep(path)) from error
    except (yaml.YAMLError, ValueError) as error:  # a character that no YAML has, a number of too many digits
        raise ConfigError(f"{path}: this is not YAML: {' '.join(str(error).split())}") from error
    if config is None:
        return {}
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: the file must map service names to sections")
    for name, section in config.items():
        if not isinstance(section, dict):
            raise ConfigError(
                f"{path}:{lines[(name,)]}: the section {name} must be a mapping, not {reprlib.repr(section)}"
            )
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
    _check_depth(f"--{keys[0]}.{keys[1]}", value)
    return cast(Section, value)


def parse_value(text: str) -> Json:
    """Read a value of the command line: JSON, else a number, true or false, else the text itself."""
    try:
        return cast(Json, json.loads(text))
    except RecursionError as error:
        raise ConfigError(_too_deep("a value")) from error
    except ValueError:
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
    """Yield the line of every key of a YAML mapping, and check all that it holds.

    A key that is no text or stands twice, a value that JSON has no word for, and references that never end
    or multiply without end are errors.
    """
    import yaml

    stack: list[tuple[tuple[str, ...], yaml.Node]] = [((), node)] if isinstance(node, yaml.Node) else []
    count = 0
    while stack:
        keys, current = stack.pop()
        line = current.start_mark.line + 1
        count += 1
        if count > _VALUES_MAX:
            raise ConfigError(f"{path}:{line}: an alias refers to itself, or to too much")
        if len(keys) > _DEPTH_MAX:
            raise ConfigError(_too_deep(f"{path}:{line}"))
        if current.tag not in _JSON_TAGS:
            kind = current.tag.removeprefix("tag:yaml.org,2002:")
            raise ConfigError(f"{path}:{line}: this is read as a {kind}; write it in quotes")
        if isinstance(current, yaml.SequenceNode):
            stack += [((*keys, str(index)), item) for index, item in enumerate(current.value)]
        elif isinstance(current, yaml.MappingNode):
            for key, value in _entries(path, current):
                yield (*keys, key.value), key.start_mark.line + 1
                stack.append(((*keys, key.value), value))


def _entries(path: str, mapping: yaml.MappingNode) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    seen: set[str] = set()
    for key, value in mapping.value:
        line = key.start_mark.line + 1
        if key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
            raise ConfigError(f"{path}:{line}: the key {_shown(key)} is read as {key.tag[18:]}; write it in quotes")
        if key.value in seen:
            raise ConfigError(f"{path}:{line}: the key {key.value!r} stands here a second time")
        seen.add(key.value)
        yield key, value


def _shown(key: yaml.Node) -> str:
    return repr(key.value) if isinstance(key.value, str) else "here"


def _too_deep(where: str) -> str:
    return f"{where}: nested deeper than {_DEPTH_MAX} levels"


def _check_depth(where: str, value: Json) -> None:
    level = [value]
    for _ in range(_DEPTH_MAX):
        nested = [
            list(item.values()) if isinstance(item, dict) else item for item in level if isinstance(item, dict | list)
        ]
        level = [item for items in nested for item in items]
    if level:
        raise ConfigError(_too_deep(where))


def _check_service_args(source: str, config: Section, lines: Lines) -> None:
    for name, section in config.items():
        if not isinstance(section, dict):
            raise ConfigError(f"{source}: {name} must be a section, such as {name}.key=value, not a value")
        if not isinstance(section.get(COMMON_CONFIGS, []), list):
            raise ConfigError(f"{source}: {name}.{COMMON_CONFIGS} must be a list of keys of {COMMON}")
        arguments = section.get(SERVICE_ARGS)
        line = lines.get((name, SERVICE_ARGS))
        where = f"{source}:{line}: {name}.{SERVICE_ARGS}" if line else f"{source}: {name}.{SERVICE_ARGS}"
        if arguments is None:
            continue
        if not isinstance(arguments, dict):
            raise ConfigError(f"{where} must be a mapping")
        parse_options(where, arguments)

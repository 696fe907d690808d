"""Reads a configuration that a person has written in YAML, and keeps the line of every key.

What comes out is what JSON can say. A key that is no text or stands twice, a value that JSON has no word
for, and references that never end or multiply without end are errors that name their line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from dynamo._core.errors import ConfigError
from dynamo.sdk._secrets import shown
from dynamo.sdk._sections import KeyPath, Section

if TYPE_CHECKING:
    import yaml

#: It travels in one environment variable, of which Linux takes 128 KiB.
CONFIG_BYTES_MAX = 120 << 10
DEPTH_MAX = 64

#: The values of a text, counted as often as they are referred to: no more than it has characters.
_VALUES_MAX = CONFIG_BYTES_MAX
#: Numbers that YAML reads in base 60 or 8, which nobody means: `12:30` is a time, and `0123` begins with a zero.
_OTHER_BASES = re.compile(r"[-+]?([0-9_.]+(:[0-9_.]+)+|0[0-9_]+)")
_JSON_TAGS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "map", "seq"))
_NUMBER_TAGS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_MERGE_TAG = "tag:yaml.org,2002:merge"

Lines = Mapping[KeyPath, int]


def read_file(path: str) -> tuple[Section, Lines]:
    """Read a file of sections, and the line of each key. An empty file is an empty configuration."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(CONFIG_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text") from error
    return read_text(path, text)


def read_text(source: str, text: str) -> tuple[Section, Lines]:
    """Read sections, and the line of each key; `source` is what errors call the text."""
    import yaml

    if len(text) > CONFIG_BYTES_MAX:
        raise ConfigError(f"{source} is too large: a configuration has at most {CONFIG_BYTES_MAX} characters")
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        lines = {} if node is None else _lines(source, node)
        config = None if node is None else loader.construct_document(node)
    except ConfigError:  # which is a ValueError, too
        raise
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{source}{line}: this is not YAML: {_said(error)}") from error
    except RecursionError as error:
        raise ConfigError(too_deep(source)) from error
    except (yaml.YAMLError, ValueError) as error:  # a character that no YAML has, a number of too many digits
        raise ConfigError(f"{source}: this is not YAML: {' '.join(str(error).split())}") from error
    if config is None:
        return {}, {}
    if not isinstance(config, dict):
        raise ConfigError(f"{source}: the file must map service names to sections")
    problems = [
        f"{source}:{lines[(name,)]}: the section {name} must be a mapping, not {shown(name, section)}"
        for name, section in config.items()
        if not isinstance(section, dict)
    ]
    if problems:
        raise ConfigError("\n".join(problems))
    return config, lines


def _said(error: yaml.MarkedYAMLError) -> str:
    """What is wrong, without a name that may be all or part of a secret: one that begins with `*` or `!`."""
    problem = error.problem or "it cannot be read"
    unquoted = problem.startswith(("found undefined alias", "found undefined tag handle"))
    if unquoted:
        return problem.partition(" '")[0] + "; a text that begins with * or ! needs quotes"
    return problem


def too_deep(source: str) -> str:
    return f"{source}: nested deeper than {DEPTH_MAX} levels"


def _lines(source: str, root: yaml.Node) -> dict[KeyPath, int]:
    """Return the line of every key, having checked all that there is."""
    import yaml

    lines: dict[KeyPath, int] = {}
    # Each node with the keys that lead to it. What `<<` merges stands behind what its mapping says itself,
    # which wins, as does the first of several.
    stack: list[tuple[KeyPath, yaml.Node]] = [((), root)]
    merged: list[tuple[KeyPath, yaml.Node]] = []
    count = 0
    while stack or merged:
        path, node = stack.pop() if stack else merged.pop()
        line = node.start_mark.line + 1
        count += 1
        if count > _VALUES_MAX:
            raise ConfigError(f"{source}:{line}: an alias refers to itself, or to too much")
        if len(path) > DEPTH_MAX:
            raise ConfigError(too_deep(f"{source}:{line}"))
        _check_kind(f"{source}:{line}", path[-1] if path else "", node)
        if isinstance(node, yaml.SequenceNode):
            stack += [((*path, str(index)), item) for index, item in enumerate(node.value)]
        elif isinstance(node, yaml.MappingNode):
            for key, value in _entries(source, node):
                if key.tag == _MERGE_TAG:
                    several = value.value if isinstance(value, yaml.SequenceNode) else [value]
                    merged += [(path, mapping) for mapping in reversed(several)]
                else:
                    lines.setdefault((*path, key.value), key.start_mark.line + 1)
                    stack.append(((*path, key.value), value))
    return lines


def _check_kind(where: str, key: str, node: yaml.Node) -> None:
    """Raise `ConfigError` for a value that JSON has no word for, or a number that nobody means."""
    if node.tag not in _JSON_TAGS:
        kind = "tag" if node.tag.startswith("!") else node.tag.removeprefix("tag:yaml.org,2002:")
        raise ConfigError(f"{where}: this is read as a {kind}; write it in quotes")
    if node.tag in _NUMBER_TAGS and _OTHER_BASES.fullmatch(node.value):
        raise ConfigError(
            f"{where}: {shown(key, node.value)} is read as a number in base {60 if ':' in node.value else 8}; "
            "write it in quotes, or as another number"
        )


def _entries(source: str, mapping: yaml.MappingNode) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    seen: set[str] = set()
    for key, value in mapping.value:
        line = key.start_mark.line + 1
        if key.tag not in ("tag:yaml.org,2002:str", _MERGE_TAG):
            what = repr(key.value) if isinstance(key.value, str) else "here"
            raise ConfigError(f"{source}:{line}: the key {what} is read as {key.tag[18:]}; write it in quotes")
        if key.value in seen:
            raise ConfigError(f"{source}:{line}: the key {key.value!r} stands here a second time")
        seen.add(key.value)
        yield key, value

"""Sections of a configuration: the names with a meaning of their own, and how they merge and are read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

ENVIRONMENT_VARIABLE = "DYNAMO_SERVICE_CONFIG"
SERVICE_ARGS = "ServiceArgs"
COMMON = "Common"
COMMON_CONFIGS = "common-configs"

#: A whole number as text; Python reads none that is longer.
WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,4000}")

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
Section = dict[str, Json]
#: The keys that lead to a value, the name of the service first.
KeyPath = tuple[str, ...]


def deep_merge(base: Section, override: Section) -> Section:
    """Return `base` with the values of `override`, merged key by key at every depth."""
    merged = dict(base)
    for key, value in override.items():
        below = merged.get(key)
        merged[key] = deep_merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def entries(section: Section, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Json]]:
    """Yield every key of a section at every depth, with its value; a mapping before what it holds."""
    for key, value in section.items():
        yield (*path, key), value
        if isinstance(value, dict):
            yield from entries(value, (*path, key))


def values_of(config: Mapping[str, Section], name: str) -> dict[str, tuple[KeyPath, Json]]:
    """Return the values of a service by their keys, each with the path at which it stands.

    The keys that the section lists under `common-configs` are taken from the section `Common`, unless the
    section has them itself. They come first.
    """
    section = config.get(name, {})
    common = config.get(COMMON, {})
    wanted = section.get(COMMON_CONFIGS)
    taken = [key for key in common if key in wanted and key not in section] if isinstance(wanted, list) else []
    values: dict[str, tuple[KeyPath, Json]] = {key: ((COMMON, key), common[key]) for key in taken}
    return values | {key: ((name, key), value) for key, value in section.items() if is_value(key)}


def parameter_name(key: str) -> str:
    """Return the name of the constructor's parameter that a key is for."""
    return key.replace("-", "_")


def is_value(key: str) -> bool:
    """Whether a key of a section is a value of the service, not a word of ours."""
    return key != SERVICE_ARGS and not key.endswith(COMMON_CONFIGS)

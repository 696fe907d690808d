"""Sections of a configuration: the names with a meaning of their own, and how two of them merge."""

from __future__ import annotations

ENVIRONMENT_VARIABLE = "DYNAMO_SERVICE_CONFIG"
SERVICE_ARGS = "ServiceArgs"
COMMON = "Common"
COMMON_CONFIGS = "common-configs"

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
Section = dict[str, Json]


def deep_merge(base: Section, override: Section) -> Section:
    """Return `base` with the values of `override`, merged key by key at every depth."""
    merged = dict(base)
    for key, value in override.items():
        below = merged.get(key)
        merged[key] = deep_merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged

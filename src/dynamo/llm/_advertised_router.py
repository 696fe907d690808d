"""A worker may say in its card how requests find the workers of its model: that takes the place of what frontends say.

All but one of a router's options may be said so. A policy is code, which a frontend loads for its own operator only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import msgspec

from dynamo._core.errors import ConfigError, DynamoError
from dynamo.llm._kv_router.config import KvRouterConfig, RouterConfig

#: The field of a `RouterConfig` that holds another one.
_KV = "config"


def advertised(config: RouterConfig) -> dict[str, object]:
    """Return a router's configuration as it stands in a card: what is not the default, and the mode.

    Raises `ConfigError` for one with a policy.
    """
    if config.config is not None and config.config.policy is not None:
        raise ConfigError(
            f"a worker cannot have frontends load code, such as the policy {config.config.policy!r}: give it to the "
            "frontend (--router-policy), or leave it out",
            setting="router_config",
        )
    said: dict[str, object] = {"mode": config.mode.value, **_changed(config)}
    if config.config is not None:
        said[_KV] = _changed(config.config)
    return said


def read_advertised(said: Mapping[str, object]) -> RouterConfig:
    """Return the configuration that a card has. Raises `ConfigError` for one that makes no sense here."""
    fields = dict(said)
    kv = fields.pop(_KV, None)
    known = {field.name for field in dataclasses.fields(RouterConfig)}
    if unknown := sorted(fields.keys() - known):
        raise ConfigError(f"its router_config has {unknown[0]!r}, which this frontend does not know")
    if kv is not None and (not isinstance(kv, dict) or "policy" in kv):
        raise ConfigError("its router_config names a policy: code is loaded for the frontend's own operator only")
    try:
        # Its own checks say what is wrong with a value, of whatever type.
        return RouterConfig(**fields, config=None if kv is None else KvRouterConfig.from_fields(kv))  # type: ignore[arg-type]
    except (DynamoError, TypeError, AttributeError) as error:
        raise ConfigError(f"its router_config makes no sense here: {error}") from error


def _changed(config: RouterConfig | KvRouterConfig) -> dict[str, object]:
    """The fields of a configuration that differ from the defaults, as JSON has them."""
    default = type(config)()
    names = [field.name for field in dataclasses.fields(config) if field.name not in (_KV, "mode")]
    changed = {name: getattr(config, name) for name in names if getattr(config, name) != getattr(default, name)}
    plain: dict[str, object] = msgspec.to_builtins(changed)
    return plain

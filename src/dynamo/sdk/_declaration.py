"""What `@service(...)` was told, checked, and what the configuration of this process puts on top of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from dynamo._core.errors import ConfigError
from dynamo.sdk._options import (
    DynamoConfig,
    DynamoDict,
    EnvironmentVariable,
    ResourcesDict,
    ServiceOptions,
    TrafficDict,
    parse_options,
    unknown_name,
)
from dynamo.sdk._sections import SERVICE_ARGS
from dynamo.sdk.lib.config import ServiceConfig

if TYPE_CHECKING:
    from typing import Literal, TypedDict

    from fastapi import FastAPI

    class ServiceKeywords(TypedDict, total=False):
        """The keywords of `@service`."""

        dynamo: DynamoDict | DynamoConfig
        resources: ResourcesDict
        workers: int | Literal["cpu_count"]
        image: str
        envs: list[EnvironmentVariable] | dict[str, str]
        labels: dict[str, str]
        traffic: TrafficDict
        app: FastAPI


_KEYWORDS = [*ServiceOptions.model_fields, "app"]


def declared(keywords: Mapping[str, object]) -> tuple[ServiceOptions, FastAPI | None]:
    """Return the options and the HTTP application that a decorator names. TypeError for what it may not say."""
    for keyword in keywords:
        if keyword not in _KEYWORDS:
            raise TypeError(f"service(): {unknown_name('keyword', keyword, _KEYWORDS)}")
    raw = {
        name: value.model_dump(exclude_unset=True) if isinstance(value, DynamoConfig) else value
        for name, value in keywords.items()
        if name != "app"
    }
    try:
        return parse_options("service()", raw), _application(keywords.get("app"))
    except ConfigError as error:
        raise TypeError(error.message) from None


def configured(name: str, options: ServiceOptions) -> ServiceOptions:
    """Return the options of a service with what the configuration of this process overrides."""
    override = ServiceConfig.get_instance().get(name, {}).get(SERVICE_ARGS)
    if override is None:
        return options
    if not isinstance(override, dict):
        raise ConfigError(f"configuration: {name}.{SERVICE_ARGS} must be a mapping")
    return options.overridden_by(parse_options(f"configuration: {name}.{SERVICE_ARGS}", override))


def _application(app: object) -> FastAPI | None:
    if app is None:
        return None
    from fastapi import FastAPI

    if not isinstance(app, FastAPI):
        raise TypeError(f"service(): app must be a FastAPI application, got {type(app).__name__}")
    return app

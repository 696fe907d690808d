"""What would be started, and with which configuration, as `dynamo serve --dry-run` shows it.

Each value stands with where it comes from. Values that look like secrets are hidden.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from dynamo.sdk._config import MergedConfig
from dynamo.sdk._console import Console
from dynamo.sdk._outline import ServiceOutline
from dynamo.sdk._plan import Plan, PlannedService
from dynamo.sdk._secrets import without_secrets
from dynamo.sdk._sections import SERVICE_ARGS, parameter_name, values_of

DECORATOR = "@service"
CONSTRUCTOR = "constructor default"
DEFAULT = "default"

Row = tuple[str, str, str]


def show(plan: Plan, console: Console) -> None:
    """Print the plan."""
    console.say("Services:")
    for service in plan.services:
        console.say(f"  {_summary(service)}")
    for service, outline in zip(plan.services, plan.outlines, strict=True):
        console.say(f"\n{service.name}:")
        for name, value, source in effective_values(service, outline, plan.config):
            console.say(f"  {name} = {value}   ({source})")
    console.say("\nService Configuration:")
    console.say(json.dumps(without_secrets(plan.config), indent=2))
    console.say("\nEnvironment Variable that would be set:")
    for name, value in plan.environment.items():
        console.say(f"{name}={json.dumps(without_secrets(json.loads(value)))}")


def effective_values(service: PlannedService, outline: ServiceOutline, config: MergedConfig) -> Iterator[Row]:
    """Yield every value of a service: its dotted name, the value as JSON, and where it comes from."""
    yield from _options(outline, config)
    yield from _constructor(outline, config)
    parameters = outline.constructor.names
    values = values_of(config, service.name)
    for key, (path, value) in values.items():
        if parameter_name(key) not in parameters:
            yield from _rows((key,), value, config, path)
    if service.http is not None:
        for key, default in (("host", service.http.host), ("port", service.http.port)):
            if key not in values and key not in parameters:
                yield key, json.dumps(default), DEFAULT


def _summary(service: PlannedService) -> str:
    parts = [f"{service.name}: {service.workers} {'worker' if service.workers == 1 else 'workers'}"]
    if service.http is not None:
        parts.append(service.http.url)
    if service.gpus:
        parts.append(f"GPUs {' | '.join(service.gpus)}")
    return ", ".join(parts)


def _options(outline: ServiceOutline, config: MergedConfig) -> Iterator[Row]:
    """What the decorator takes. Namespace and workers are shown although nobody has said them."""
    options = outline.options
    dynamo = options.get("dynamo")
    if not isinstance(dynamo, dict) or "namespace" not in dynamo:
        yield "dynamo.namespace", json.dumps(outline.namespace), DEFAULT
    if options:
        yield from _rows((), options, config, (outline.name, SERVICE_ARGS), DECORATOR)
    if "workers" not in options:
        yield "workers", json.dumps(outline.workers), DEFAULT


def _constructor(outline: ServiceOutline, config: MergedConfig) -> Iterator[Row]:
    values = {parameter_name(key): found for key, found in values_of(config, outline.name).items()}
    for parameter in outline.constructor.parameters:
        if parameter.name in values:
            path, value = values[parameter.name]
            yield from _rows((parameter.name,), value, config, path)
        elif parameter.default is not None:
            yield parameter.name, parameter.default, CONSTRUCTOR


def _rows(
    name: tuple[str, ...], value: object, config: MergedConfig, path: tuple[str, ...], otherwise: str = DEFAULT
) -> Iterator[Row]:
    """Yield what a mapping holds at every depth, or the value itself, each with where the key was written."""
    visible = without_secrets(value, name[-1] if name else "")
    if isinstance(visible, dict) and visible:
        for key in visible:
            yield from _rows((*name, key), visible[key], config, (*path, key), otherwise)
    else:
        yield ".".join(name), json.dumps(visible), config.source_of(*path) or otherwise

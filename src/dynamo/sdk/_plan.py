"""What `dynamo serve` will start: decided once, from the graph and the configuration."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dynamo._core.errors import WrongUsage
from dynamo._core.loopback import is_loopback
from dynamo.runtime._listening import fault_of, url_of
from dynamo.sdk._config import Layer, MergedConfig
from dynamo.sdk._constructor import constructor_problems, misspelt, wants_text
from dynamo.sdk._gpus import VISIBLE_DEVICES, Allocation, GpuRequest, allocate
from dynamo.sdk._options import ServiceOptions, unknown_name
from dynamo.sdk._outline import Outline, ServiceOutline
from dynamo.sdk._secrets import shown
from dynamo.sdk._sections import (
    COMMON,
    COMMON_CONFIGS,
    ENVIRONMENT_VARIABLE,
    SERVICE_ARGS,
    KeyPath,
    Section,
    is_value,
    values_of,
)

HTTP_HOST = "127.0.0.1"
HTTP_PORT = 8000


@dataclass(frozen=True, slots=True)
class HttpAddress:
    """Where the workers of a service listen for HTTP. Port 0 is one that is free."""

    host: str
    port: int

    @property
    def url(self) -> str:
        return url_of(self.host, self.port)


@dataclass(frozen=True, slots=True)
class PlannedService:
    """One service that will run."""

    name: str
    workers: int
    envs: dict[str, str]
    http: HttpAddress | None
    #: What each worker sees as `CUDA_VISIBLE_DEVICES`; empty where the workers keep what they find.
    gpus: tuple[str, ...] = ()

    def environment_of(self, number: int) -> dict[str, str]:
        """The variables of one worker, counted from 1: the same each time that it is started."""
        if not self.gpus:
            return dict(self.envs)
        return {**self.envs, VISIBLE_DEVICES: self.gpus[number - 1]}


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is started: the entry first, and for the end the order in which they depend on each other."""

    graph: str
    working_dir: str
    config: MergedConfig
    services: list[PlannedService]
    #: What was read of those services.
    outlines: list[ServiceOutline]
    #: Names of services; each group depends only on groups before it.
    callees_first: list[list[str]]
    warnings: list[str]

    @property
    def environment(self) -> dict[str, str]:
        """What every worker gets."""
        return {ENVIRONMENT_VARIABLE: json.dumps(self.config)}


def make_plan(
    graph: str,
    working_dir: str,
    outline: Outline,
    config: MergedConfig,
    environment: Mapping[str, str],
    *,
    host: str | None = None,
    port: int | None = None,
    insecure: bool = False,
    service_name: str | None = None,
    machine: Callable[[], list[str]] | None = None,
) -> Plan:
    """Decide what runs. Raises `ConfigError` for whatever cannot work.

    With `service_name` only that service of the graph runs. `host` and `port` are for the first service
    that serves HTTP. An address that other machines reach needs `insecure`, as nobody is asked for credentials.
    `machine` finds the GPUs where the environment does not name them.
    """
    chosen = [service for service in outline.services if service_name in (None, service.name)]
    if not chosen:
        names = ", ".join(service.name for service in outline.services)
        raise WrongUsage(f"Service {service_name} not found: {graph} has {names}")
    _check_planes(environment)
    warnings = [*config.warnings, *_warnings(graph, config, outline, chosen)]
    web = next((service for service in chosen if service.has_http), None)
    if web is not None:
        config = config.overlaid(_address(web.name, config, environment, host=host, port=port))
    elif host is not None or port is not None:
        warnings.append("--host and --port have no effect: no service of this graph serves HTTP")
    config = _with_typed_texts(config, chosen)
    if problems := _problems(config, outline, chosen):
        raise WrongUsage("\n".join(problems))
    allocation = allocate([_gpu_request(service) for service in chosen], environment, machine)
    services = [_planned(service, config, allocation) for service in chosen]
    _check_addresses(services)
    if not insecure:
        _check_reach(services)
    running = {service.name for service in chosen}
    groups = [[name for name in group if name in running] for group in outline.callees_first]
    return Plan(graph, working_dir, config, services, chosen, groups, [*warnings, *allocation.warnings])


def _check_planes(environment: Mapping[str, str]) -> None:
    for variable, scheme in (("DYN_DISCOVERY", "memory:"), ("DYN_REQUEST_PLANE", "inproc:")):
        if environment.get(variable, "").startswith(scheme):
            raise WrongUsage(f"{variable}={scheme} ends at the border of a process, and each worker is one: unset it")


def _warnings(graph: str, config: MergedConfig, outline: Outline, chosen: list[ServiceOutline]) -> list[str]:
    names = [service.name for service in outline.services]
    warnings = [
        config.complaint((name,), f"{graph} does not run {name}")
        for name in config
        if name != COMMON and name not in names and name in outline.known
    ]
    if SERVICE_ARGS in config.get(COMMON, {}):
        warnings.append(
            config.complaint((COMMON, SERVICE_ARGS), "these apply to no service: only its values are common")
        )
    for service in chosen:
        section, common = config.get(service.name, {}), config.get(COMMON, {})
        warnings += [
            config.complaint((service.name, key), f"this is no parameter of {service.name}; is {meant!r} meant?")
            for key, meant in misspelt([key for key in section if is_value(key)], service.constructor)
        ]
        warnings += [
            config.complaint(
                (service.name, key), f"this changes no argument of @service; is {SERVICE_ARGS}.{key} meant?"
            )
            for key in section
            if key in ServiceOptions.model_fields and key not in service.constructor.names
        ]
        wanted = section.get(COMMON_CONFIGS)
        warnings += [
            config.complaint((service.name, COMMON_CONFIGS), f"{COMMON} has no {key}")
            for key in (wanted if isinstance(wanted, list) else [])
            if key not in common and key not in section
        ]
    return warnings


def _address(name: str, config: MergedConfig, environment: Mapping[str, str], **given: str | int | None) -> Layer:
    """What the command line says about the address of a service. Its options are variables, too, which yield to it."""
    section: Section = {}
    sources: dict[KeyPath, str] = {}
    for key, value in given.items():
        variable = f"DYNAMO_{key.upper()}"
        source = variable if environment.get(variable) == str(value) else f"--{key}"
        said_before = config.source_of(name, key) or ""
        if value is not None and not (source == variable and said_before.startswith("--")):
            section[key] = value
            sources[(name, key)] = source
    return Layer({name: section} if section else {}, sources)


def _with_typed_texts(config: MergedConfig, chosen: list[ServiceOutline]) -> MergedConfig:
    """Where a parameter is text, `--Worker.name=8` is the text 8: no shell keeps the quotes that would say so."""
    for service in chosen:
        for key, (path, value) in values_of(config, service.name).items():
            typed = config.as_typed(path)
            if typed is not None and wants_text(key, value, service.constructor):
                config = config.overlaid(typed)
    return config


def _problems(config: MergedConfig, outline: Outline, chosen: list[ServiceOutline]) -> list[str]:
    """What is wrong with the configuration of this graph, each in one line."""
    problems = [
        config.complaint((name,), unknown_name("service", name, outline.known))
        for name in config
        if name != COMMON and name not in outline.known
    ]
    for service in chosen:
        problems += [
            config.complaint(path, problem) if path else problem
            for path, problem in constructor_problems(service.name, service.constructor, config)
        ]
        if service.has_http:
            problems += _address_problems(service.name, config)
    return problems


def _address_problems(name: str, config: MergedConfig) -> list[str]:
    problems = []
    values = values_of(config, name)
    where, host = values.get("host", ((), HTTP_HOST))
    if not isinstance(host, str) or not host:
        problems.append(config.complaint(where, f"must be an address to listen on, not {shown('host', host)}"))
    where, port = values.get("port", ((), HTTP_PORT))
    if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port <= 65535:
        problems.append(config.complaint(where, f"must be a number from 0 to 65535, not {shown('port', port)}"))
    return problems


def _gpu_request(service: ServiceOutline) -> GpuRequest:
    """What a service asks for; nothing where it names its devices itself."""
    gpu = 0.0 if VISIBLE_DEVICES in service.envs else service.gpu
    return GpuRequest(service.name, service.workers, gpu)


def _planned(service: ServiceOutline, config: MergedConfig, allocation: Allocation) -> PlannedService:
    http = _http_address(config, service.name) if service.has_http else None
    gpus = tuple(allocation.visible.get(service.name, ()))
    return PlannedService(service.name, service.workers, service.envs, http, gpus)


def _http_address(config: MergedConfig, name: str) -> HttpAddress:
    values = values_of(config, name)
    _, host = values.get("host", ((), HTTP_HOST))
    _, port = values.get("port", ((), HTTP_PORT))
    assert isinstance(host, str), "it was checked"
    assert isinstance(port, int), "it was checked"
    return HttpAddress(host, port)


def _check_addresses(services: list[PlannedService]) -> None:
    taken: dict[HttpAddress, str] = {}
    for service in services:
        if service.http is None or service.http.port == 0:
            continue
        other = taken.setdefault(service.http, service.name)
        if other != service.name:
            raise WrongUsage(
                f"{other} and {service.name} would both listen on {service.http.url}; set another {service.name}.port"
            )


def _check_reach(services: list[PlannedService]) -> None:
    for service in services:
        if service.http is not None and not is_loopback(service.http.host):
            if why := fault_of(service.http.host):
                raise WrongUsage(f"{service.name} cannot listen on {service.http.host}: {why}; set {service.name}.host")
            raise WrongUsage(
                f"{service.name} would listen on {service.http.url}, which other machines reach, and nobody is asked "
                f"for credentials: add --insecure if the network around it is trusted, or leave the host at {HTTP_HOST}"
            )

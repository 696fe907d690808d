"""What `dynamo serve` will start: decided once, from the graph and the configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from dynamo._core.errors import ConfigError
from dynamo._core.loopback import is_loopback
from dynamo.sdk._constructor import misspelt
from dynamo.sdk._options import unknown_name
from dynamo.sdk._outline import Outline, ServiceOutline
from dynamo.sdk._sections import COMMON, ENVIRONMENT_VARIABLE, Section
from dynamo.sdk.lib.config import ServiceConfig

HTTP_HOST = "127.0.0.1"
HTTP_PORT = 8000


class WrongUsage(ConfigError):
    """The command line asks for something that is not there, or not allowed."""


@dataclass(frozen=True, slots=True)
class HttpAddress:
    """Where the workers of a service listen for HTTP. Port 0 is one that is free."""

    host: str
    port: int

    @property
    def url(self) -> str:
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class PlannedService:
    """One service that will run."""

    name: str
    workers: int
    envs: dict[str, str]
    http: HttpAddress | None


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is started: the entry first, and for the end the order in which they depend on each other."""

    graph: str
    working_dir: str
    config: ServiceConfig
    services: list[PlannedService]
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
    config: ServiceConfig,
    environment: Mapping[str, str],
    *,
    host: str | None = None,
    port: int | None = None,
    insecure: bool = False,
    service_name: str | None = None,
) -> Plan:
    """Decide what runs. Raises `ConfigError` for whatever cannot work.

    With `service_name` only that service of the graph runs. `host` and `port` are for the first service
    that serves HTTP. An address that other machines reach needs `insecure`, as nobody is asked for credentials.
    """
    names = [service.name for service in outline.services]
    chosen = [service for service in outline.services if service_name in (None, service.name)]
    if not chosen:
        raise WrongUsage(f"Service {service_name} not found: {graph} has {', '.join(names)}")
    _check_sections(config, outline)
    _check_planes(environment)
    warnings = [
        f"the configuration has a section {name!r}, but {graph} does not run it"
        for name in config
        if name != COMMON and name not in names
    ]
    warnings += [
        f"{service.name}.{key} is no parameter of {service.name}; is {meant!r} meant?"
        for service in chosen
        for key, meant in misspelt(config.get(service.name, {}), service.parameters)
    ]
    config = ServiceConfig(config)
    web = next((service for service in chosen if service.has_http), None)
    address: Section = {key: value for key, value in (("host", host), ("port", port)) if value is not None}
    if address and web is not None:
        config[web.name] = config.get(web.name, {}) | address
    elif address:
        warnings.append("--host and --port have no effect: no service of this graph serves HTTP")
    services = [_planned(service, config.get(service.name, {})) for service in chosen]
    _check_addresses(services)
    if not insecure:
        _check_reach(services)
    running = {service.name for service in chosen}
    groups = [[name for name in group if name in running] for group in outline.callees_first]
    return Plan(graph, working_dir, config, services, groups, warnings)


def _check_sections(config: ServiceConfig, outline: Outline) -> None:
    for name in config:
        if name != COMMON and name not in outline.known:
            raise WrongUsage(f"the configuration has a section for an {unknown_name('service', name, outline.known)}")


def _check_planes(environment: Mapping[str, str]) -> None:
    for variable, scheme in (("DYN_DISCOVERY", "memory:"), ("DYN_REQUEST_PLANE", "inproc:")):
        if environment.get(variable, "").startswith(scheme):
            raise WrongUsage(f"{variable}={scheme} ends at the border of a process, and each worker is one: unset it")


def _planned(service: ServiceOutline, section: Section) -> PlannedService:
    http = _http_address(service.name, section) if service.has_http else None
    return PlannedService(service.name, service.workers, service.envs, http)


def _http_address(name: str, section: Section) -> HttpAddress:
    host, port = section.get("host", HTTP_HOST), section.get("port", HTTP_PORT)
    if not isinstance(host, str) or not host:
        raise ConfigError(f"{name}.host must be an address to listen on, not {host!r}")
    if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port <= 65535:
        raise ConfigError(f"{name}.port must be a number from 0 to 65535, not {port!r}")
    return HttpAddress(host, port)


def _check_addresses(services: list[PlannedService]) -> None:
    taken: dict[HttpAddress, str] = {}
    for service in services:
        if service.http is None or service.http.port == 0:
            continue
        other = taken.setdefault(service.http, service.name)
        if other != service.name:
            raise ConfigError(
                f"{other} and {service.name} would both listen on {service.http.url}; set another {service.name}.port"
            )


def _check_reach(services: list[PlannedService]) -> None:
    for service in services:
        if service.http is not None and not is_loopback(service.http.host):
            raise WrongUsage(
                f"{service.name} would listen on {service.http.url}, which other machines reach, and nobody is asked "
                f"for credentials: add --insecure if the network around it is trusted, or leave the host at {HTTP_HOST}"
            )

"""What `dynamo serve` will start: decided once, from the graph and the configuration."""

from __future__ import annotations

import json
from dataclasses import dataclass

from dynamo._core.errors import ConfigError
from dynamo.runtime._loopback import is_loopback
from dynamo.sdk._graph import callees_first, check, reachable
from dynamo.sdk._loader import BadGraph, load_service
from dynamo.sdk._options import unknown_name
from dynamo.sdk._sections import COMMON, ENVIRONMENT_VARIABLE, Section
from dynamo.sdk._service import Service
from dynamo.sdk.lib.config import ServiceConfig

HTTP_HOST = "127.0.0.1"
HTTP_PORT = 8000


class PublicAddress(ConfigError):
    """Other machines could reach a service, and nobody has said that they may."""


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
    config: ServiceConfig,
    *,
    host: str | None = None,
    port: int | None = None,
    insecure: bool = False,
    service_name: str | None = None,
) -> Plan:
    """Import the graph and decide what runs. Raises `ConfigError` for whatever cannot work.

    `config` must be in the environment of this process already: the graph reads it while it is imported.
    With `service_name` only that service of the graph runs. `host` and `port` are for the first service
    that serves HTTP. An address that other machines reach needs `insecure`, as nobody is asked for credentials.
    """
    reached = reachable(load_service(graph, working_dir))
    check(reached)
    chosen = [service for service in reached if service_name in (None, service.name)]
    if not chosen:
        raise BadGraph(f"Service {service_name} not found: {graph} has {', '.join(s.name for s in reached)}")
    warnings = [
        f"the configuration has a section {name!r}, but {unknown_name('service', name, [s.name for s in reached])}"
        for name in config
        if name != COMMON and name not in {service.name for service in reached}
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
    groups = [[service.name for service in group if service in chosen] for group in callees_first(reached)]
    return Plan(graph, working_dir, config, services, groups, warnings)


def _planned(service: Service[object], section: Section) -> PlannedService:
    options = service.options
    http = _http_address(service.name, section) if service.has_http else None
    return PlannedService(service.name, options.workers, options.envs, http)


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
            raise PublicAddress(
                f"{service.name} would listen on {service.http.url}, which other machines reach, and nobody is asked "
                f"for credentials: add --insecure if the network around it is trusted, or leave the host at {HTTP_HOST}"
            )
